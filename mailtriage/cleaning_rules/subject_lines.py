"""Cleans subject lines: reply and forward prefixes, ticket ids and warning tags go, the words stay."""

from __future__ import annotations

import re

LONGEST_SUBJECT = 2000

# Re: AW: WG: Fwd:      Antwort:      RE[2]:      Weiterleitung:
_PREFIX = re.compile(
    r"\s*(?:(?P<forward>wg|fwd?|weitergeleitet|weiterleitung|wtr(?:lt)?|tr|i|doorst|vs|enc)|re|aw|antw(?:ort)?|antwort|sv|ref|rv|odp|r"
    r"|res)\s?(?:\[\d{1,3}\]|\(\d{1,3}\)|\^\d{1,3})?\s?[:：]",
    re.IGNORECASE,
)
# [EXTERN]      (EXTERN)      [Extern E-Mail]      *** SPAM ***      EXTERNAL:
_EXTERNAL = r"ext(?:ern(?:al|e)?)?(?:[ -]?(?:e-?mail|mail|sender|absender))?"
_TAG = re.compile(
    rf"\s*(?:\({_EXTERNAL}\)|\{{{_EXTERNAL}\}}|\[(?:{_EXTERNAL}|spam\??|suspected spam"
    r"|sec=[^\[\]]{0,40}|caution|warnung|verdächtig|bulk|vertraulich|confidential|encrypted|verschlüsselt)\]"
    r"|\*{2,}\s?(?:spam|extern(?:al)?)\s?\*{2,}|(?:EXTERN|EXTERNAL|EXT|SPAM)\s?:)\s*",
    re.IGNORECASE,
)
# [Ticket#2024031210000123]      [#4711]      (Ticket-ID: 4711)      Ticket #4711:      [CASE-00012345]      [Ticket#1]
# Ticket-Nr. 4711:      ref:_00D20abcd._5002Xabcd:ref      but not [WKN-716460] or [Depot-1234567]
_TICKET = re.compile(
    r"[\[({](?:(?:ticket|case|vorgang)s?\s?#\s?\d{1,20}|(?:ticket|case|vorgang|fall|anfrage|request|incident|id|ref|req|inc|cas|sr"
    r"|tt)s?[- ]?(?:nr\.?|no\.?|id|nummer|number)?\s?[#:. -]{0,3}\s?[a-z]{0,4}[-#]?\d[\w./-]{1,40}|#\s?\d[\w.-]{1,30}"
    r"|(?!(?:wkn|isin|iban|etf|etc|etn|s?dax|mdax|fonds|depot|konto|kto|aktie|karte|order|kunde|kd|tan|plz|bic)[-#])"
    r"[A-Z]{2,6}[-#]\d{3,20})[\])}]"
    r"|\bref:_?[0-9a-z._]{6,60}:ref\b|\b(?:ticket|case|vorgang)\s?#\s?\d{3,20}\b\s?[:–-]?"
    r"|^\s*(?:ticket|vorgangs?|case)[- ]?(?:nr|no|id|nummer|number)\b\.?:?\s?#?\d{3,20}\s?[:–-]",
    re.IGNORECASE,
)
_SPACES = re.compile(r"\s+")


def clean_subject(subject: str) -> str:
    """The words of a subject; a subject that holds nothing else gives an empty text."""
    text = _SPACES.sub(" ", subject[:LONGEST_SUBJECT]).strip()
    while True:
        shorter = _strip_once(text)
        if shorter == text:
            return text
        text = shorter


def _strip_once(text: str) -> str:
    text = _TICKET.sub(" ", text)
    for pattern in (_TAG, _PREFIX):
        match = pattern.match(text)
        while match is not None:
            text = text[match.end() :]
            match = pattern.match(text)
    return _SPACES.sub(" ", text).strip(" \t-–—|:")


def is_forward(subject: str) -> bool:
    """Whether the outermost prefix of a subject says that the mail was forwarded."""
    text = subject[:LONGEST_SUBJECT]
    while (tag := _TAG.match(text) or _TICKET.match(text.lstrip())) is not None:
        text = text.lstrip()[tag.end() :] if tag.re is _TICKET else text[tag.end() :]
    prefix = _PREFIX.match(text)
    return prefix is not None and prefix["forward"] is not None
