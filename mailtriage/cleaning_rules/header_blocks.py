"""Recognises the headings with which mail programs introduce an earlier message: Von, Gesendet, An, Betreff."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailtriage.cleaning_rules.mail_lines import Line
from mailtriage.cleaning_rules.patterns import pattern

_FIELDS = {
    "from": "Von|From|De|Da|Van|Från|Fra|Od|Lähettäjä|От|Absender",
    "date": "Gesendet(?: am)?|Sent|Datum|Date|Dato|Envoyé(?: le)?|Inviato|Data|Verzonden|Skickat|Sendt|Enviado(?: el)?"
    "|Wysłano|Fecha",
    "to": "An|To|À|A|Aan|Till|Til|Para|Do|Empfänger",
    "cc": "Cc|Kopie(?: an)?|Bcc|Copia",
    "subject": "Betreff|Subject|Objet|Oggetto|Onderwerp|Ämne|Emne|Asunto|Assunto|Temat",
    "other": "Reply-To|Antwort(?:en)? an|Risposta|Wichtigkeit|Importance|Priorität|Priority|Anlagen?|Attachments?"
    "|Organi[sz]ation",
}
# *Von:* Max Muster <max@example.org>      Gesendet: Dienstag, 12. März 2024 10:11      De : Max      From:Max
_FIELD = re.compile(
    r"[*|]{0,2}(?:"
    + "|".join(f"(?P<{field}>{names})" for field, names in _FIELDS.items())
    + r")\*{0,2}\s?:\*{0,2}(?:\s+|(?=[\w<\"])|$)",
    re.IGNORECASE,
)
_PARTIES = ("from", "to", "cc")
# 10:11      9.05 Uhr
_TIME = re.compile(r"(?<![\d.])\d{1,2}[:.]\d\d(?![.\d])")
# 12.03.24      12. März 2024: mail programs name the year
_DATE = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d|\b\d{4}\b")
# Von: Verrechnungskonto 1234      An: DE02 1203 0000 0000 2020 51: a transfer that the client orders
_ACCOUNT = pattern(r"konto|depot|account|\d{4}")
_RULE = re.compile(r"(?:[-_=*~#─—–]{3,}|[-_]{2}|—)$")

MOST_LINES = 60
MOST_BLANK = 3  # lines between a rule and the first heading


def is_heading(text: str) -> bool:
    """Whether a line is a heading of a mail, such as `Betreff: Depotübertrag`."""
    return _field_of(text) is not None


def _field_of(text: str) -> re.Match[str] | None:
    return _FIELD.match(text) if ":" in text[:24] else None


def header_block_at(lines: Sequence[Line], position: int, least: int = 3) -> int | None:
    """Where the block of headings that starts here stops, or `None`; a rule may stand above it.

    `least`: how many of from, date, to and subject it must have; with 1, a separator above has already said what it is.
    """
    start = position
    if position < len(lines) and _RULE.match(lines[position].text):
        position = next_text(lines, position + 1)
        if position - start > MOST_BLANK:
            return None
    found: dict[str, str] = {}
    sent = False  # whether one says `Gesendet`, which only mail programs write
    last, blank = position, 0
    for index in range(position, min(position + MOST_LINES, len(lines))):
        text = lines[index].text
        field = _field_of(text) if text else None
        if field is not None and field.lastgroup is not None:
            if field.lastgroup in ("from", "subject") and field.lastgroup in found:
                break
            found[field.lastgroup] = text[field.end() :]
            sent = sent or (field.lastgroup == "date" and field["date"].lower().startswith(("gesendet", "sent")))
            last, blank = index + 1, 0
        elif not text:
            blank += 1
            if blank > 1 or not found or len(found) >= 4:
                break
        elif not found or blank or not _continues(lines, index):
            break
        else:
            last = index + 1
    if not _is_block(found, least):
        return None
    # What a client announces himself, such as a transfer, must hold an address to introduce a mail.
    announced = least > 1 and not sent and start > 0 and _is_announced(lines, start) and not _has_address(found)
    return None if announced else last


def _is_announced(lines: Sequence[Line], position: int) -> bool:
    """Whether the words above end in a colon: `Bitte überweisen:`"""
    above = lines[position - 1].text or (lines[position - 2].text if position > 1 else "")
    return above.endswith(":")


def next_text(lines: Sequence[Line], position: int) -> int:
    """The first line from here on that is not blank."""
    while position < len(lines) and not lines[position].text:
        position += 1
    return position


def _continues(lines: Sequence[Line], index: int) -> bool:
    """Whether a heading goes on in this line: the rest of an address list or of a long subject."""
    before, text = lines[index - 1].text, lines[index].text
    if "@" in text or before.endswith((",", ";", "<")):
        return True
    return index + 1 < len(lines) and is_heading(lines[index + 1].text)


def _has_address(found: dict[str, str]) -> bool:
    return any("@" in found[field] for field in _PARTIES if field in found)


def _is_block(found: dict[str, str], least: int) -> bool:
    main = {"from", "date", "to", "subject"} & found.keys()
    if least == 1:
        return bool(main)
    if "from" not in main or len(main) < least:
        return False
    date = found.get("date", "")
    if _TIME.search(date) or _has_address(found):
        return True
    return _DATE.search(date) is not None and not any(_ACCOUNT.search(found.get(field, "")) for field in _PARTIES)
