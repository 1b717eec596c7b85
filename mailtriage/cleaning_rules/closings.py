"""Recognises closing formulas, such as `Mit freundlichen Grüßen`, and the thanks that may stand in their place."""

from __future__ import annotations

import re

from mailtriage.cleaning_rules.patterns import any_of, pattern

_WARM = any_of(
    r"freundl(?:ich(?:e[nmrs]?|st\w{0,2})?|\.)|frdl\.?|viele[nr]?|liebe[nr]?|beste[nrm]?|herzliche?[nrm]?|sch(?:ö"
    r"|oe)ne[nr]?|sonnige[nr]?|nette[nr]?",
    r"kollegiale[nr]?|vorzügliche[rnm]?|stürmische|sommerliche|winterliche|kind(?:est)?|best|warm(?:est)?|friendly"
    r"|many|all|my",
)
_GREETING = any_of(
    # Mit freundlichen Grüßen      Viele liebe Grüße      Beste Gruesse      Gruß      Kind regards      Best wishes
    rf"(?:(?:mit|with) )?(?:(?:den|the|my) )?(?:{_WARM},? (?:(?:und|and|&) )?){{0,3}}(?:gr(?:ü|ue|u)(?:ß|ss)(?:e|en"
    rf"|le)?|regards|wishes|greetings)",
    # MfG      LG      VG      m. f. G.      mit freundl. Gr.
    r"m\.?\s?f\.?\s?g\.?|[lvb]\.?g\.?|mit freundl\. gr\.?",
    # Hochachtungsvoll      Mit vorzüglicher Hochachtung
    rf"hochachtungsvoll|hochachtend|mit {_WARM} hochachtung",
    # Yours sincerely,      Sincerely      Cheers      Best,      BR
    r"(?:yours )?(?:very )?(?:truly|sincerely|faithfully)(?: yours)?|yours|cheers|best|rgds\.?|br|cordialement"
    r"|saluti|salut",
)
_THANKS = (
    r"(?:(?:vielen|herzlichen|besten|lieben|many|kind|schon mal|schonmal|nochmals) ){0,2}(?:dank|danke(?:sch(?:ö"
    r"|oe)n)?|thanks|thank you|thx|merci)"
    r"(?: (?:im voraus|vorab|schon mal|so much|very much|a lot|in advance|für ihre (?:hilfe|mühe|unterstützung"
    r"|bemühungen)))?"
)
_CLOSING = re.compile(
    rf"[-–—*_/ ]{{0,3}}(?:{_THANKS}(?:,| und| and| &|\s?[,!.])\s+)?{_GREETING}(?!\w)(?P<rest>.{{0,70}})$", re.IGNORECASE
)
# Vielen Dank!      Danke im Voraus,
_ONLY_THANKS = pattern(rf"{_THANKS}\s*[,.!]{{0,3}}$")
# What a closing may begin with, in small letters: most lines do not, and need no pattern.
_BEGINNINGS = (
    "mit ", "with ", "den ", "the ", "my ", "freundl", "frdl", "viele", "liebe", "beste", "herzlich", "schön",
    "schoen", "sonnig", "nette", "kollegial", "vorzüglich", "stürmisch", "sommerlich", "winterlich", "kind",
    "best", "warm", "friend", "many", "all ", "grü", "gru", "regards", "wishes", "greetings", "m.", "m ", "mfg",
    "mf", "lg", "l.", "vg", "v.", "bg", "b.", "hochacht", "yours", "very", "truly", "sincerely", "faithfully",
    "cheers", "rgds", "br", "cordial", "salut", "schon", "nochmals", "dank", "thank", "thx", "merci",
)  # fmt: skip
_FIRST_LETTERS = frozenset(beginning[:3] for beginning in _BEGINNINGS)
_FIRST_TWO = frozenset(beginning for beginning in _BEGINNINGS if len(beginning) == 2)
_BEFORE = "-–—*_/ "
# Viele Grüße aus dem sonnigen Freiburg      Best regards from London
_FROM_PLACE = pattern(
    r"\s*(?:aus|vom|von|from)\s+(?:(?:dem|der|den|the|sunny"
    r"|sonnigen)\s+){0,2}[^\W\d_]+(?:[ /-][^\W\d_]+){0,2}\s*[,.!]{0,2}$"
)
_NAME_WORD = re.compile(r"(?:[^\W\d_a-zäöüß][\w'’.-]*|von|van|de|der|zu|und|and|family|&|\+|[a-z]\.)$")
_AROUND_NAME = " ,.!*_()[]\"'/\\|-–—:;"

_SHORT = pattern(r"(?:[lvb]\.?g\.?|best|br|yours|salut|saluti|cheers) (?!regards|wishes|greet)\w")
_NO_NAMES = frozenset(
    "an und von bitte für fuer aus to for price possible way case ist the of in im am zu zur zum mit wie die".split()
)

LONGEST_CLOSING = 160


def may_close(text: str) -> bool:
    """Whether a line could be a closing formula or thanks, by its length and its first letters."""
    first = text[:3].lower()
    return (first in _FIRST_LETTERS or first[:2] in _FIRST_TWO or text[0] in _BEFORE) and len(text) <= LONGEST_CLOSING


def is_closing(text: str) -> bool:
    """Whether a line is a closing formula, alone or with a name or a place."""
    if not may_close(text) or not text.lstrip(_BEFORE).lower().startswith(_BEGINNINGS):
        return False
    match = _CLOSING.match(text)
    while match is not None:
        rest = match["rest"].strip(_AROUND_NAME)
        if not rest or is_name(rest) or _FROM_PLACE.match(match["rest"]) or _is_small_name(rest):
            return True
        match = _CLOSING.match(rest)
    return False


def is_short_closing(text: str) -> bool:
    """Whether a closing is two letters and more, which could as well be a company: `LG Electronics`."""
    return _SHORT.match(text) is not None


def _is_small_name(text: str) -> bool:
    """lg peter: a first name in a mail that knows no capitals"""
    words = text.split()
    return len(words) <= 2 and all(word.isalpha() and word not in _NO_NAMES for word in words)


def is_only_thanks(text: str) -> bool:
    """Whether a line says no more than thank you."""
    return _ONLY_THANKS.match(text) is not None


def is_name(text: str) -> bool:
    """Whether a text could be one or two people's names: up to six capitalised words."""
    text = text.strip(_AROUND_NAME)
    if not text or len(text) > 60 or any(character.isdigit() for character in text):
        return False
    words = text.replace(",", " ").replace("/", " ").split()
    return len(words) <= 6 and all(_NAME_WORD.match(word.strip(_AROUND_NAME) or "X") for word in words)
