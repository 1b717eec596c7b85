"""Cleaning: from the body of a mail to the words that the client wrote now, with a reason for all that went.

    from mailtriage.cleaning import clean

    cleaned = clean(body, subject)
    cleaned.text       # the client's words
    cleaned.removed    # what was cut: kind, rule, offsets into `body`

Losing the client's words is worse than leaving a footer, and the rules are ordered by that.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from mailtriage.cleaning_rules.app_footers import cut_app_footers
from mailtriage.cleaning_rules.closings import is_name, is_only_thanks
from mailtriage.cleaning_rules.disclaimers import cut_disclaimers
from mailtriage.cleaning_rules.edits import Removed, apply_edits, compose
from mailtriage.cleaning_rules.greetings import greeting_edits, is_salutation
from mailtriage.cleaning_rules.html_text import Container, is_html, visible_text, without_markup_signs
from mailtriage.cleaning_rules.mail_lines import Line, cut_edits, split_lines, without_doubled_blanks
from mailtriage.cleaning_rules.markup_leftovers import cut_leftovers
from mailtriage.cleaning_rules.patterns import Mentions
from mailtriage.cleaning_rules.quotations import cut_quotations, newest_message
from mailtriage.cleaning_rules.redaction import redaction_edits
from mailtriage.cleaning_rules.signatures import cut_signatures
from mailtriage.cleaning_rules.subject_lines import clean_subject, is_forward
from mailtriage.cleaning_rules.white_space import blank_line_edits, shows_all, white_space_edits

__all__ = ["CLEANING_VERSION", "KNOWN_CLEANING_VERSIONS", "Cleaned", "Removed", "clean"]

CLEANING_VERSION = "3"
KNOWN_CLEANING_VERSIONS = frozenset({CLEANING_VERSION})

# A mail is cleaned until nothing changes, which takes most one pass. A text that was made to unfold for ever may take
# no more than this many characters for each that it has, and gets this many in any case.
MOST_WORK = 3
LEAST_WORK = 500_000
MOST_MARKUP_PASSES = 6
LONG = 100_000  # characters


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What cleaning leaves of a mail.

    `text` is the body with each span of `removed` replaced by its replacement. `kept_as_last_resort` says that
    every line looked like something to cut, and the best block was kept all the same.
    """

    subject: str
    text: str
    removed: tuple[Removed, ...]
    kept_as_last_resort: bool = False


def clean(body: str, subject: str = "", *, greeting: Literal["keep", "cut"] = "keep", redact: bool = False) -> Cleaned:
    """The client's own current words in a mail, plain or HTML.

    Cleaning its own output changes nothing; it never raises, and takes time linear in the length of the mail.

    Args:
        body: the decoded body, as the client's mail program wrote it.
        subject: the subject; it also tells whether the mail is a forward.
        greeting: whether a salutation such as `Sehr geehrte Damen und Herren,` stays.
        redact: put typed placeholders in the place of account and card numbers, addresses and phone numbers.
    """
    with _without_collecting() if len(body) > LONG else nullcontext():
        return _clean(body, subject, greeting, redact)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Let Python collect no garbage meanwhile.

    A hostile mail makes hundreds of thousands of spans. They form no cycles, and looking through all of them again and
    again takes longer than making them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _clean(body: str, subject: str, greeting: str, redact: bool) -> Cleaned:
    edits: list[Removed] = []
    text, forwarded, last_resort = body, is_forward(subject), False
    work, passes = max(MOST_WORK * len(body), LEAST_WORK), 0
    settled = False
    while work > 0 and not settled:
        work -= len(text)
        step = _clean_once(text, forwarded, greeting, passes)
        edits, text = compose(edits, step.edits), step.text
        last_resort = last_resort or step.last_resort
        settled, forwarded, passes = step.settled, False, passes + 1
    clean_words = clean_subject(subject)
    if redact:
        redacted = redaction_edits(text)
        edits, text = compose(edits, redacted), apply_edits(text, redacted)
        clean_words = apply_edits(clean_words, redaction_edits(clean_words))
    return Cleaned(clean_words, text, tuple(edits), last_resort)


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one pass made of a text; `settled` says that another one would find nothing to do."""

    text: str
    edits: list[Removed]
    last_resort: bool
    settled: bool


def _clean_once(text: str, forwarded: bool, greeting: str, passes: int) -> _Pass:
    markup: list[Removed] = []
    containers: list[Container] = []
    is_markup = is_html(text)
    if is_markup:
        visible = visible_text(text) if passes < MOST_MARKUP_PASSES else without_markup_signs(text)
        markup, text, containers = visible.edits, visible.text, visible.containers
    edits = [] if containers else blank_line_edits(text)
    text = apply_edits(text, edits)
    lines = split_lines(text, containers)
    mentions = Mentions(text)
    last_resort = _decide(lines, mentions, forwarded)
    settled = _look_again(lines, mentions, bool(containers))
    cuts = cut_edits(lines)
    edits, text = compose(edits, cuts), apply_edits(text, cuts)
    if cuts or is_markup:
        settled = settled and not is_html(text)
    if greeting == "cut" and (greetings := greeting_edits(text)):
        edits, text = compose(edits, greetings), apply_edits(text, greetings)
        settled = False
    spaces = white_space_edits(text)
    if settled and not shows_all(text):
        settled = not any(text[edit.start : edit.end].strip(" \t\n") for edit in spaces)
    edits, text = compose(edits, spaces), apply_edits(text, spaces)
    return _Pass(text, compose(markup, edits), last_resort, settled)


def _look_again(lines: Sequence[Line], mentions: Mentions, contained: bool) -> bool:
    """Judge the lines that are left as if they were the mail; returns whether all of them stay, none as a last resort.

    `contained`: some stand in elements of HTML, which the text that is left does not have any more.
    """
    if not contained and not any(line.cut for line in lines):
        return True
    if any(line.without_marks or line.unread for line in lines):
        return False
    left = without_doubled_blanks(line for line in lines if line.cut is None)
    for line in left:
        line.container, line.indented = None, False
    last_resort = _decide(left, mentions, forwarded=False, again=True)
    return not last_resort and not any(line.cut for line in left)


def _decide(lines: Sequence[Line], mentions: Mentions, forwarded: bool, again: bool = False) -> bool:
    """Decide for each line whether it goes, and why; returns whether a block was kept as a last resort.

    `again`: these are the lines that were left before.
    """
    for line in lines:
        if line.container and line.container[0] == "hidden" and line.text:
            line.cut = ("tracking", line.container[1])
    if "[" in mentions.lowered or "{" in mentions.lowered:
        cut_leftovers(lines)
    opt_outs = cut_app_footers(lines, mentions, again)
    cut_quotations(lines, mentions, forwarded)
    cut_disclaimers([line for line in lines if line.cut is None])
    if above := _above_forward(lines):
        cut_signatures(above, mentions)
    cut_signatures(lines, mentions)
    left = (line for line in lines if line.cut is None and _says_something(line.text))
    first = next(left, None)
    if opt_outs and all(is_salutation(line.text) for line in (first, *left) if line is not None):
        return _give_back(_above_quotes(opt_outs, lines)) or _keep_best_block(lines) or _give_back(opt_outs)
    if first is None or (first is not lines[0] and _is_only_name(first, left) and _is_below_quotes(first, lines)):
        return _keep_best_block(lines)
    return False


def _above_forward(lines: Sequence[Line]) -> Sequence[Line]:
    """What stands above a forward that is kept: who forwards may sign there. Without a forward, nothing."""
    for index, line in enumerate(lines):
        if line.cut is not None and line.cut[0] == "forward_header":
            return lines[:index]
    return ()


_SAYS_NOTHING = "-_=*~#>|.•· \t\x00\u00a0\u00ad\u200b"


def _above_quotes(opt_outs: Sequence[Line], lines: Iterable[Line]) -> list[Line]:
    """Newsletter abbestellen: the request, where no more than a salutation is left and it was not the quoted mail's."""
    quotes = next((line.start for line in lines if line.cut is not None and line.cut[0] == "quote"), None)
    return [line for line in opt_outs if quotes is None or line.start < quotes]


def _is_only_name(first: Line, left: Iterator[Line]) -> bool:
    text = first.text
    if len(text.split()) < 2 or text[-1] in ".!?" or not is_name(text) or is_only_thanks(text):
        return False
    return next(left, None) is None


def _is_below_quotes(name: Line, lines: Sequence[Line]) -> bool:
    """Whether a name signs a letter that the client's program marked as quoted, as nothing else above was cut."""
    cuts = {line.cut for line in takewhile(lambda line: line is not name, lines) if line.cut is not None}
    return cuts == {("quote", "quote_mark")}


def _says_something(text: str) -> bool:
    return text.strip(_SAYS_NOTHING) != ""


def _keep_best_block(lines: Sequence[Line]) -> bool:
    """Give back what most likely holds the client's words; returns whether there was anything."""
    choices: tuple[Callable[[], list[Line]], ...] = (
        lambda: [line for line in lines if line.cut == ("signature", "closing")],
        lambda: newest_message(lines),
        lambda: [line for line in lines if line.cut and line.cut[0] == "signature"],
        lambda: [line for line in lines if line.cut and line.cut[0] in ("legal_footer", "disclaimer")],
    )
    return any(_give_back(choice()) for choice in choices)


def _give_back(lines: Sequence[Line]) -> bool:
    """Keep lines that were cut after all; returns whether they say anything."""
    block = [line for line in lines if line.text]
    if not any(_says_something(line.text) for line in block):
        return False
    for line in block:
        line.cut = None
    return True
