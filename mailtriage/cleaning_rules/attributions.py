"""Recognises the line above a quoted message: `Am 12.03.2024 um 10:11 schrieb Max Muster <max@example.org>:`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailtriage.cleaning_rules.mail_lines import Line
from mailtriage.cleaning_rules.patterns import Mentions, Telling, any_of, pattern

LONGEST_ATTRIBUTION = 400  # characters
_LAST = frozenset(":：-*>")  # that an attribution may end in
MOST_LINES = 5  # over which mail programs wrap one

_WROTE = any_of(
    r"schrieb(?:en)?|geschrieben|wrote|writes|sent",
    r"a écrit|écrit|escribió|escreveu|ha scritto|schreef|geschreven|skrev|napisał(?:\(a\))?|kirjoitti|napsal(?:\(a\))?",
    r"написал(?:\(а\))?|пише|写道",
)
_VERB = pattern(rf"(?<!\w){_WROTE}(?!\w)")
# A verb, or what an address ends in: one of these is in every attribution but `2024-03-12 10:11 Max Muster:`.
_TELLING = Telling(
    "schrieb", "wrote", "writes", ">:", "\n>", "\n:", " sent", "\nsent", "crit", "escrib", "escreveu", "schreef",
    "geschreven", "skrev", "napisa", "kirjoitti", "napsal", "написал", "пише", "写道",
)  # fmt: skip
# Am Dienstag, 12. März 2024 um 10:11:12 MEZ hat Max Muster <max@example.org> Folgendes geschrieben:
# Max Muster <max@example.org> schrieb am Di., 12. März 2024 um 10:11 Uhr:
_WHOLE = re.compile(
    rf"(?P<lead>.{{2,300}}?)(?<!\w)(?P<verb>{_WROTE})(?!\w)(?P<tail>.{{0,160}}?)\s*(?P<colon>[:：]|-{{2,}})?[\s*]*$",
    re.IGNORECASE,
)
_DATE = pattern(
    # 12.03.2024      12/03/24      2024-03-12      2016年12月12日
    r"\d{1,2}[./-]\s?\d{1,2}[./-]\s?\d{2,4}|\d{4}[-/年]\d{1,2}[-/月]\d{1,2}",
    # 12. März 2024      12 Mar 2024      11-Apr-2011      2 de fevereiro de 2015
    r"\d{1,2}(?:st|nd|rd|th)?[.,]?[- ](?:de )?[^\W\d_]{3,10}\.?,?(?: de)?[- ]\d{2,4}",
    # Mar 12, 2024      Dec 9,      15. jun. kl. 20
    r"[^\W\d_]{3,10}\.? \d{1,2}(?:st|nd|rd|th)?,? (?:at )?\d{2,4}|\d{1,2}\.? [^\W\d_]{3,9}\.?(?: kl\.| om)? \d\d",
)
_TIME = re.compile(r"\b\d{1,2}[:.h]\d\d(?::\d\d)?\b(?![.\d])")
_ADDRESS = re.compile(r"[^\s<>@]{1,64}@[^\s<>@]{1,200}")
_REPORT = pattern(
    # Am 12.03.2024 schrieb ich Ihnen bereits      Am 3. März um 10:15 Uhr schrieb mir Ihr Kollege Folgendes:
    r"(?:schrieb(?:en)?|wrote|sent)\s+(?:ich|wir|mir|uns|sie|er|man|ihnen|du|dir|ihre?[rmn]?|meine?|unsere?|to|me|us"
    r"|you|the|that)\b",
    # Am 12.03.2024 um 10:15 Uhr schrieb Frau Stein:      schrieb die Hotline:
    r"schrieb(?:en)?\s+(?:herrn?|frau|der|die|das|ein|eine)\b",
    # On 12 March at 10:15 your colleague wrote:      Am 3.3.2024 um 9:00 haben Sie mir geschrieben:
    r"\b(?:ich|wir|mir|uns|sie|man|wurde|I|we|he|she|they|you|your|my|our|ihre?r?|meine?|unsere?)\b[^<@]{0,60}?"
    r"\b(?:schrieb(?:en)?|geschrieben|wrote|sent)\b",
)
# ... schrieb Herr Meier, dass es erledigt sei. Ich sehe aber nichts davon:
_SAYS_WHAT = pattern(r",\s(?:dass|daß|that)\b|(?-i:\b[a-zäöüß]{2,}[.!?]\s+[A-ZÄÖÜ])")
# At 6/16/2016 08:32 PM, you wrote:      Am 12.03.2024, 10:11:12, schrieben Sie:      where quoted lines follow
_TO_READER = pattern(r"\b(?:you wrote|schrieben sie|schriebst du)\s*[:：]\W*$")
_WITHOUT_VERB = pattern(
    # 2024-03-12 10:11 GMT+01:00 Max Muster <max@example.org>:      2013/7/20 max <max@example.org>
    r"\d{4}[-/]\d{1,2}[-/]\d{1,2}(?: \d{1,2}:\d\d(?: (?:GMT"
    r"|UTC)?[-+]?[\d:]{0,6})?)? [^\W\d][^<>@]{1,80}(?:<\s?[^<>\s]+@[^<>\s]+\s?>?)?\s*:?$",
    # 30.09.2017, 18.30, "Max Muster" <max@example.org>:      11:00 AM, November 17, 2021, "Max" <max@example.org>:
    # Wednesday, 17 November 2021, 3:32 PM +0300 from max@example.org <max@example.org>:
    r"(?=.{0,60}\b\d{1,2}[:.]\d\d\b)(?:\d{1,2}[.:]\d|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|Mo|Di|Mi|Do|Fr|Sa"
    r"|So)[a-z]{0,8}[.,]).{10,120}<[^<>\s@]+@[^<>\s@]+>:$",
)
_STARTS = pattern(
    # Am      On      Le      Op      Il      El      W dniu      Den      2024-03-12      Tue      понедельник, 6
    r"[-*_ ]{0,6}(?:(?:Am|On|Le|Op|Il|El|Em|W dniu|Dnia|Den|At|Dne)\s|\d{1,4}[-/.: ]|(?:ma|ti|ke|to|pe|la|su) \d)",
    r"[-*_ ]{0,6}(?:在|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)|[^\W\d]+, \d)",
)
# Ja, gern. On Tue, 12 Mar 2024, Max wrote:      the client's words stand in the same line, which stays
_STARTS_INSIDE = pattern(
    r"\S[\s-]+(?:On|Am) (?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|Mo|Di|Mi|Do|Fr|Sa|So)\w{0,8}\.?,? |\d{1,2}[. ])", flags=0
)
# Max Muster <max@example.org> schrieb am      "Max" <max@example.org
_NAME_AND_ADDRESS = pattern(r"[\"'*]?[^\W\d_][^<>@]{0,80}<\s?[^<>@\s]{1,64}@|[^\s<>@]{1,64}@\S+ ")
_ENDS_SENTENCE = re.compile(r"[^\W\d_]{5,}[.!?]$")
# Am 21.04.2016 17:48 schrieb "Max" <max@example.org\n>:
_LEFT_OVER = frozenset({">", ">:", "> :", ":"})


def has_verb(text: str) -> bool:
    """Whether a line says that somebody wrote."""
    return _VERB.search(text) is not None


def attribution_at(lines: Sequence[Line], position: int) -> tuple[int, bool] | None:
    """The attribution that starts here: where it stops, and whether it cuts what is below it even if not quoted.

    Only for a line of which `may_start` holds.
    """
    first = lines[position]
    joined, used = "", 0
    for index in range(position, min(position + MOST_LINES + 2, len(lines))):
        text = lines[index].text
        if not text and _goes_on_below(lines, index, joined):
            continue
        if (
            not text
            or used == MOST_LINES
            or (joined and lines[index].depth != first.depth and not _ends_like_one(text))
        ):
            return None
        joined = f"{joined} {text}" if joined else text
        used += 1
        if len(joined) > LONGEST_ATTRIBUTION:
            return None
        ends_below = index + 1 < len(lines) and lines[index + 1].text in _LEFT_OVER
        if ends_below or text[-1] in _LAST or has_verb(text):
            strength = _strength(f"{joined}:" if ends_below else joined)
            if strength is not None:
                return index + 1 + ends_below, strength
        if _ENDS_SENTENCE.search(text[-20:]):
            return None
    return None


def may_attribute(mentions: Mentions) -> bool:
    """Whether a mail may hold an attribution that begins with anything but a year."""
    return bool(mentions.of(_TELLING))


def may_start(text: str) -> bool:
    """Whether an attribution may start with this line."""
    if _STARTS.match(text):
        return True
    named = "@" in text and _NAME_AND_ADDRESS.match(text) is not None
    return (named or _ends_like_one(text)) and _STARTS_INSIDE.search(text) is None


def _goes_on_below(lines: Sequence[Line], index: int, joined: str) -> bool:
    """On Thu, 31 Mar 2016 at 11:16 Max\\n\\n<\\nmailto:max@example.org\\n> wrote:"""
    return bool(joined) and index + 1 < len(lines) and lines[index + 1].text == "<" and _TIME.search(joined) is not None


def _ends_like_one(text: str) -> bool:
    return text.endswith((":", "：", "--")) and has_verb(text)


def _strength(text: str) -> bool | None:
    """`True`: cuts what is below it. `False`: only together with quoted lines below. `None`: no attribution."""
    if _WITHOUT_VERB.match(text):
        return _TIME.search(text) is not None or "@" in text
    match = _WHOLE.match(text)
    if match is None:
        return None
    dated = _DATE.search(text) is not None
    timed = _TIME.search(text) is not None
    address = _ADDRESS.search(text) is not None
    if not match["colon"]:
        return True if address and dated and timed and not match["tail"] else None
    if not address and (match["verb"].lower() == "sent" or not (dated or timed)):
        return None
    reports = _REPORT.search(text) is not None or _SAYS_WHAT.search(match["tail"]) is not None
    if reports and not address:
        return False if dated and timed and _TO_READER.search(text) else None
    return not reports and (address or (dated and timed))
