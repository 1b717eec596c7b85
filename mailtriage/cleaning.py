"""Cleaning: from the body of a mail to the words that the client wrote now, with a reason for all that went.

    from mailtriage.cleaning import clean

    cleaned = clean(body, subject)
    cleaned.text       # the client's words
    cleaned.removed    # what was cut: kind, rule, offsets into `body`

Losing the client's words is worse than leaving a footer, and the rules are ordered by that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mailtriage.cleaning_rules.app_footers import cut_app_footers
from mailtriage.cleaning_rules.disclaimers import cut_disclaimers
from mailtriage.cleaning_rules.edits import Removed, apply_edits, compose
from mailtriage.cleaning_rules.greetings import greeting_edits
from mailtriage.cleaning_rules.html_text import Container, is_html, visible_text, without_markup_signs
from mailtriage.cleaning_rules.mail_lines import Line, cut_edits, split_lines
from mailtriage.cleaning_rules.markup_leftovers import cut_leftovers
from mailtriage.cleaning_rules.quotations import cut_quotations, newest_message
from mailtriage.cleaning_rules.redaction import redaction_edits
from mailtriage.cleaning_rules.signatures import cut_signatures
from mailtriage.cleaning_rules.subject_lines import clean_subject, is_forward
from mailtriage.cleaning_rules.white_space import blank_line_edits, white_space_edits

__all__ = ["CLEANING_VERSION", "KNOWN_CLEANING_VERSIONS", "Cleaned", "Removed", "clean"]

CLEANING_VERSION = "1"
KNOWN_CLEANING_VERSIONS = frozenset({CLEANING_VERSION})

# A mail is cleaned until nothing changes. Most need one pass and one that finds nothing; a text that was made to unfold
# for ever may not take more than this many characters for each that it has, and gets this many in any case.
MOST_WORK = 3
LEAST_WORK = 500_000
MOST_MARKUP_PASSES = 6


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
    edits: list[Removed] = []
    text, forwarded, last_resort = body, is_forward(subject), False
    work, passes = max(MOST_WORK * len(body), LEAST_WORK), 0
    while work > 0:
        step, kept = _clean_once(text, forwarded, greeting, passes)
        last_resort = last_resort or kept
        work -= len(text)
        only_trimmed = all(_is_trim(edit, text) for edit in step)
        edits = compose(edits, step)
        text = apply_edits(text, step)
        if only_trimmed:
            break  # nothing that a rule looks at has changed
        forwarded, passes = False, passes + 1
    clean_words = clean_subject(subject)
    if redact:
        edits = compose(edits, redaction_edits(text))
        text = apply_edits(body, edits)
        clean_words = apply_edits(clean_words, redaction_edits(clean_words))
    return Cleaned(clean_words, text, tuple(edits), last_resort)


def _is_trim(edit: Removed, text: str) -> bool:
    """Whether an edit takes blanks and line breaks from an end of a text, and nothing that hid what stands there."""
    at_end = edit.start == 0 or edit.end == len(text)
    return edit.kind == "whitespace" and at_end and not text[edit.start : edit.end].strip(" \t\n")


def _clean_once(text: str, forwarded: bool, greeting: str, passes: int) -> tuple[list[Removed], bool]:
    """The edits of one pass over a text, and whether a block was kept as a last resort."""
    edits: list[Removed] = []
    containers: list[Container] = []
    if is_html(text):
        visible = visible_text(text) if passes < MOST_MARKUP_PASSES else without_markup_signs(text)
        edits, text, containers = visible.edits, visible.text, visible.containers
    if not containers:
        edits, text = _then(edits, text, blank_line_edits(text))
    lines = split_lines(text, containers)
    last_resort = _decide(lines, text.lower(), forwarded)
    edits, text = _then(edits, text, cut_edits(lines))
    if greeting == "cut":
        edits, text = _then(edits, text, greeting_edits(text))
    edits, text = _then(edits, text, white_space_edits(text))
    return edits, last_resort


def _then(edits: list[Removed], text: str, step: list[Removed]) -> tuple[list[Removed], str]:
    return (compose(edits, step), apply_edits(text, step)) if step else (edits, text)


def _decide(lines: Sequence[Line], lowered: str, forwarded: bool) -> bool:
    """Decide for each line whether it goes, and why; returns whether a block was kept as a last resort.

    `lowered` is the whole text in small letters, in which rules look for the words that they need.
    """
    for line in lines:
        if line.container and line.container[0] == "hidden" and line.text:
            line.cut = ("tracking", line.container[1])
    cut_leftovers(lines)
    cut_app_footers(lines, lowered)
    cut_quotations(lines, forwarded)
    cut_disclaimers([line for line in lines if line.cut is None])
    cut_signatures(lines, lowered)
    if any(line.cut is None and _says_something(line.text) for line in lines):
        return False
    return _keep_best_block(lines)


_SAYS_NOTHING = "-_=*~#>|.•· \t\x00\u00a0\u00ad\u200b"


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
    for choice in choices:
        block = [line for line in choice() if line.text]
        if any(_says_something(line.text) for line in block):
            for line in block:
                line.cut = None
            return True
    return False
