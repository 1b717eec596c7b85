"""Finds notices of confidentiality, liability and paper saving."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mailtriage.cleaning_rules.mail_lines import Line, paragraphs
from mailtriage.cleaning_rules.patterns import any_of, pattern

_SIGNS = "*_#=-( \t"
_START = pattern(
    r"[*_#=\- \t(]{0,8}"
    + any_of(
        # Wichtiger Hinweis: Diese E-Mail ist vertraulich.      Confidentiality Notice: ...      Disclaimer
        r"(?:wichtiger |rechtlicher |allgemeiner )?(?:hinweis|haftungsausschlu(?:ss|ß)|disclaimer"
        r"|vertraulichkeitshinweis|datenschutzhinweise?)\b",
        r"(?:confidentiality(?: notice)?|important notice|legal notice|notice|caution|achtung|important|wichtig"
        r"|confidential|vertraulich|privileged)\b",
        # Diese E-Mail enthält vertrauliche und/oder rechtlich geschützte Informationen.
        r"(?:diese|der inhalt dieser|die (?:information|angaben)(?:en)? in dieser|die in dieser"
        r"|alle in dieser)\b.{0,30}(?:e-?mail|mail|nachricht|mitteilung)",
        # This e-mail and any attachments are confidential      The information in this message is intended only for
        r"(?:this|the (?:information|contents?)(?: contained)? (?:in|of) this|any|the contents?)\b.{0,30}(?:e-?mail"
        r"|message|communication|transmission)",
        # Bitte denken Sie an die Umwelt, bevor Sie diese E-Mail ausdrucken.      Please consider the environment
        r"(?:bitte |please |think |denken? |schonen? ).{0,40}(?:umwelt|environment)",
        # If you are not the intended recipient      Sollten Sie nicht der richtige Adressat sein
        r"if you (?:are not|have received)|(?:sollten|falls|wenn|sind) sie .{0,30}(?:nicht der|irrtümlich"
        r"|irrtuemlich|fälschlich)",
        # E-Mails können Viren enthalten      Informationen zum Datenschutz finden Sie unter
        r"(?:internet[- ]?)?e-?mails? (?:können|koennen|kann|cannot|are not|is not)",
        r"(?:informationen|hinweise?) (?:zum|zur) (?:umgang|datenschutz|verarbeitung)",
    )
)
# What a disclaimer begins with, in small letters, behind signs such as `*` or `(`.
_BEGINNINGS = (
    "wichtig", "rechtlich", "allgemein", "hinweis", "haftung", "disclaimer", "vertraulich", "datenschutz",
    "confidential", "important", "legal", "notice", "caution", "achtung", "privileged", "diese", "der inhalt", "die ",
    "alle ", "this", "the ", "any", "bitte", "please", "think", "denk", "schon", "if you", "sollten", "falls", "wenn",
    "sind", "internet", "email", "e-mail", "information",
)  # fmt: skip
# Each counts once: two of them make a disclaimer.
_WORDS = (
    pattern(r"vertraulich|confidential|privileged|rechtlich geschützt|rechtlich geschuetzt"),
    pattern(
        r"adressat|empfänger|empfaenger|intended (?:recipient|only|solely|for)|solely for|ausschlie(?:ß|ss)lich für d"
    ),
    pattern(r"nicht der (?:richtige|beabsichtigte|vorgesehene)|irrtümlich|irrtuemlich|in error|not the intended"),
    pattern(r"unbefugt|nicht gestattet|unauthori[sz]ed|prohibited|weitergabe|disclos|untersagt|unzulässig"),
    pattern(r"vernichten|löschen sie|loeschen sie|delete (?:it|this)|notify the sender|informieren sie"),
    pattern(r"haftung|liab|rechtsverbindlich|verbindlich"),
    pattern(r"schriftliche[nr]? bestätigung|schriftform|confirmed in writing"),
    pattern(r"viren|virus|manipul|verfälscht"),
    pattern(r"datenschutz|personenbezogen|art\. 13|dsgvo|gdpr"),
)
_PAPER = pattern(r"umwelt|environment")
# In Ihrem Disclaimer steht      ich möchte      meine Daten: somebody speaks for himself
_SPEAKS = pattern(r"\b(?:ich|mir|mich|mein(?:e[mnrs]?)?|(?-i:I)|my|me)\b")
# Bitte sperren Sie das Depot.
_REQUEST = pattern(r"\b(?:bitte|please)\b[^.!?]{0,300}")
# bitte informieren Sie den Absender und löschen Sie diese E-Mail      please notify us and destroy all copies
_ABOUT_MAILS = pattern(
    r"mail|nachricht|mitteilung|message|absender|sender|empfänger|adressat|recipient|inhalt|anh(?:a|ä)ng|attach"
    r"|umwelt|environment|druck|print|cop(?:y|ies)|kopie|vernicht|destroy|delete|zerstör|informier|inform|notify|notif"
    r"|benachrichtig|verständig|kontakt|contact|prüf|vir(?:us|en)|beacht|note|advised|aware|consider|datenschutz|privacy"
    r"|website|www|http|link|telefon|call",
)


def cut_disclaimers(lines: Iterable[Line]) -> None:
    """Mark every paragraph that is a disclaimer, wherever it stands."""
    for block in paragraphs(lines):
        if is_disclaimer(block):
            for line in block:
                line.cut = ("disclaimer", "disclaimer")


def is_disclaimer(block: Sequence[Line]) -> bool:
    """Whether a paragraph begins like a disclaimer, says two things that disclaimers say, and nobody speaks in it."""
    first = block[0].text
    if not first.lstrip(_SIGNS).lower().startswith(_BEGINNINGS) or not _START.match(first):
        return False
    text = " ".join(line.text for line in block[:20])[:3000]
    if _SPEAKS.search(text) or any(not _ABOUT_MAILS.search(request[0]) for request in _REQUEST.finditer(text)):
        return False
    if _PAPER.search(first) and len(text) < 200:
        return True
    return sum(words.search(text) is not None for words in _WORDS) >= 2
