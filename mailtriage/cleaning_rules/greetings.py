"""Finds the salutation at the head of a mail."""

from __future__ import annotations

from mailtriage.cleaning_rules.edits import Removed
from mailtriage.cleaning_rules.patterns import pattern

# Herr Dr. Muster      Damen und Herren      Team      Frau von der Heide
_WHOM = (
    r"(?:[ \t]+(?-i:[A-ZÄÖÜ][\w'-]*\.?|und|and|or|von|vom|van|der|de|zu|liebes|liebe|zusammen|all|there|team|&)){0,7}"
)
_SALUTATION = pattern(
    # Sehr geehrte Damen und Herren,      Sehr geehrter Herr Dr. Muster!      S. g. Frau Beispiel,
    rf"\s*(?:sehr geehrte[rs]?|s\. ?g\.|sg\.?|werte[rs]?|liebe[rs]?){_WHOM}[ \t]*[,!.:]+\s*",
    rf"\s*(?:sehr geehrte[rs]?|liebe[rs]?){_WHOM}[ \t]*\n\s*",
    # Hallo Frau Muster,      Guten Tag      Hi,      Moin zusammen!      Dear Sir or Madam,
    r"\s*(?:hallo|hi|hey|moin(?: moin)?|servus|grüezi|grüß gott|(?:schönen )?guten (?:tag|morgen|abend)|dear|hello"
    rf"|good (?:morning|afternoon|evening)|to whom it may concern)(?!\w){_WHOM}[ \t]*(?:[,!.:]+\s*|\n\s*)",
)


def is_salutation(text: str) -> bool:
    """Whether a line is a salutation and nothing else."""
    match = _SALUTATION.match(f"{text}\n")
    return match is not None and match.end() > len(text)


def greeting_edits(text: str) -> list[Removed]:
    """The edit that cuts the salutation, where something is left below or behind it."""
    match = _SALUTATION.match(text)
    if match is None or not text[match.end() :].strip():
        return []
    return [Removed("greeting", "salutation", match.start(), match.end())]
