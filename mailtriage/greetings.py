"""Finds the salutation at the head of a mail."""

from __future__ import annotations

import re

from mailtriage.edits import Removed

# Sehr geehrte Damen und Herren,      Hallo Frau Muster,      Guten Tag Herr Dr. Beispiel!      Liebes Team,      Hi,
_SALUTATION = re.compile(
    r"\s*(?:sehr geehrte[rs]?\b[^\n,!.:]{0,80}|(?:sg|s\.g\.)\b[^\n,!.:]{0,60}|werte[rs]?\b[^\n,!.:]{0,60}"
    r"|lieber?s?\b[^\n,!.:]{0,50}"
    r"|(?:hallo|hi|hey|moin(?: moin)?|servus|grüezi|grüß gott|guten (?:tag|morgen|abend)|schönen guten (?:tag|morgen"
    r"|abend)|dear|hello|good (?:morning|afternoon|evening)"
    r"|to whom it may concern)\b(?:\s+(?:zusammen|(?:liebes |liebe )?team|all|there|damen und herren|sir or madam"
    r"|sirs?|madam|(?:herr|frau|mr|mrs|ms|dr)\.?[^\n,!.:]{0,50}|[A-ZÄÖÜ][\w-]{0,30}(?: [A-ZÄÖÜ][\w-]{0,30}){0,2}))?)"
    r"\s*(?:[,!.:]+[ \t]*|(?=\n|$))",
    re.IGNORECASE,
)


def greeting_edits(text: str) -> list[Removed]:
    """The edit that cuts the salutation, where something is left below or behind it."""
    match = _SALUTATION.match(text)
    if match is None or not text[match.end() :].strip():
        return []
    return [Removed("greeting", "salutation", match.start(), match.end())]
