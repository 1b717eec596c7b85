"""Trims and folds the white space of a text."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import accumulate, compress, repeat
from operator import ne, sub

from mailtriage.cleaning_rules.edits import Removed, make_removed

# Characters that show nothing: null bytes, soft hyphens, zero-width spaces, byte order marks.
_INVISIBLE = "\x00\u00ad\u200b\u200c\u2060\ufeff\u034f"
_RARE = rf"\xa0\u202f\u2007\x0b\x0c\r{_INVISIBLE}"
# Single spaces and line breaks inside of a text are as they should be, and most frequent: they are no run.
_RUN = re.compile(rf"([ \t\n{_RARE}](?:[ \t\n{_RARE}]++|(?<=[{_RARE}])|\Z|(?<!..)))", re.DOTALL)
# One of these is in every text that has something to trim or fold but at its ends.
_RARE_CHARACTERS = (*"\xa0\u202f\u2007\x0b\x0c\r", *_INVISIBLE)
_CLUES = (" \n", "\t\n", "\n\n\n", *_RARE_CHARACTERS)
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_NOT_SHOWN = re.compile(rf"[\x0b\x0c{_INVISIBLE}]")
_SPACES = str.maketrans({"\xa0": " ", "\u202f": " ", "\u2007": " "})


_BLANK_LINES = re.compile(r"\n(?:[ \t]*+\r?\n){2,}+")


def blank_line_edits(text: str) -> list[Removed]:
    """Edits that make one blank line of several, before rules look at what stands above and below."""
    if "\n\n\n" not in text and "\n " not in text and "\n\t" not in text and "\r" not in text:
        return []
    return [Removed("whitespace", "white_space", run.start(), run.end(), "\n\n") for run in _BLANK_LINES.finditer(text)]


def white_space_edits(text: str) -> list[Removed]:
    """Edits that trim both ends and each line's end, keep at most one blank line, and drop invisible characters."""
    if not text[:1].isspace() and not text[-1:].isspace() and not any(clue in text for clue in _CLUES):
        return []
    parts = _RUN.split(text)  # words, run, words, ...: where there are many runs, faster than a match for each
    runs, ends = parts[1::2], list(accumulate(map(len, parts)))[1::2]
    folded = list(map(_folded, runs))
    if runs and not parts[0]:
        folded[0] = ""
    if runs and not parts[-1]:
        folded[-1] = ""
    spans = zip(repeat("whitespace"), repeat("white_space"), map(sub, ends, map(len, runs)), ends, folded, strict=False)
    return list(map(make_removed, compress(spans, map(ne, folded, runs))))


def shows_all(text: str) -> bool:
    """Whether each character is a word's, or a plain blank or line break."""
    return not any(rare in text for rare in _RARE_CHARACTERS)


@lru_cache(maxsize=1024)
def _folded(run: str) -> str:
    breaks = len(_LINE_BREAK.findall(run)) if "\r" in run else run.count("\n")
    indent = run[max(run.rfind("\n"), run.rfind("\r")) + 1 :]
    if indent.strip(" "):
        indent = _NOT_SHOWN.sub("", indent).translate(_SPACES)
    return "\n" * min(breaks, 2) + indent
