"""A mail as lines with offsets, quote depth and what was decided about each line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from mailtriage.cleaning_rules.edits import Removed
from mailtriage.cleaning_rules.html_text import Container

# No rule reads more of a line than this: a longer one is prose, and time must not grow with it.
LONGEST_RULE_TEXT = 2000
# Nor does any rule read more unquoted lines than this: what has more is data rather than a letter, and stays.
MOST_READ_LINES = 1000

_LINE = re.compile(r"([^\r\n]*)(?:\r\n|\r|\n)?")
# > > Guten Tag        >> Guten Tag
_QUOTE_MARK = re.compile(r"\s*+>(?:[ \t]?>)*+[ \t]?")


class Line:
    """A line of a mail: `start` to `end` without its line break, `stop` with it.

    `text` is what rules look at: without quote marks and outer white space, cut at `LONGEST_RULE_TEXT` characters.
    `cut` is the kind and rule that removes the line, or `None` while it is the client's own.
    """

    __slots__ = (
        "container",
        "content",
        "cut",
        "depth",
        "end",
        "indented",
        "start",
        "stop",
        "text",
        "unread",
        "without_marks",
    )

    def __init__(self, start: int, end: int, stop: int, text: str, depth: int = 0, content: int = -1) -> None:
        self.start = start
        self.end = end
        self.stop = stop
        self.text = text
        self.depth = depth
        self.content = content  # where the text after the quote marks starts
        self.container: tuple[str, str] | None = None
        self.indented = False
        self.unread = False  # below the lines that rules read
        self.cut: tuple[str, str] | None = None
        self.without_marks = False  # the text stays, its quote marks go

    @property
    def quoted(self) -> bool:
        return self.depth > 0 or (self.container is not None and self.container[0] == "quote")

    @property
    def own(self) -> bool:
        """Still the client's, not empty, and to be judged by rules."""
        return self.cut is None and bool(self.text) and not self.unread


def split_lines(text: str, containers: Iterable[Container] = ()) -> list[Line]:
    """The lines of a mail; those that a container covers know it."""
    lines: list[Line] = []
    read = 0
    for start, part, stop in _parts(text):
        line = _line(start, part, stop)
        lines.append(line)
        if line.text and not line.depth:
            read += 1
        if read > MOST_READ_LINES and not line.depth:
            line.unread = True
            if not containers and text.find("\n>", start) < 0:
                line.end = line.stop = len(text)
                break
    _place(lines, containers)
    return lines


def _line(start: int, part: str, stop: int) -> Line:
    end = start + len(part)
    head = part[:LONGEST_RULE_TEXT]
    stripped = head.strip()
    mark = _QUOTE_MARK.match(head) if stripped[:1] == ">" else None
    if mark is None:
        return Line(start, end, stop, stripped)
    return Line(start, end, stop, head[mark.end() :].strip(), mark[0].count(">"), start + mark.end())


def _parts(text: str) -> Iterator[tuple[int, str, int]]:
    """Where each line starts, the line without its break, and where it ends with it."""
    if "\r" in text:
        for match in _LINE.finditer(text):
            start, stop = match.span()
            if start < stop:
                yield start, match[1], stop
        return
    start, length = 0, len(text)
    for part in text.split("\n"):
        stop = start + len(part) + 1
        if stop <= length:
            yield start, part, stop
        elif part:
            yield start, part, length
        start = stop


def _place(lines: Sequence[Line], containers: Iterable[Container]) -> None:
    """Tell each line the outermost container around it; containers nest, so each line is visited once a layer."""
    spans = sorted(containers, key=lambda container: (container.start, -container.end))
    position = 0
    covered: dict[str, int] = {}
    for container in spans:
        layer = "indent" if container.kind == "indent" else "other"
        if container.end <= covered.get(layer, -1):
            continue
        covered[layer] = container.end
        while position < len(lines) and lines[position].stop <= container.start:
            position += 1
        index = position
        while index < len(lines) and lines[index].start < container.end:
            line = lines[index]
            if container.start <= line.start + (line.end - line.start) // 2 < container.end or line.start == line.end:
                if container.kind == "indent":
                    line.indented = True
                elif line.container is None:
                    line.container = (container.kind, container.rule)
            index += 1


def paragraphs(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Runs of lines that are still the client's, parted by blank lines and by lines that are cut."""
    block: list[Line] = []
    for line in lines:
        if line.text and line.cut is None and not line.unread:  # `line.own`, spelt out because it is asked most often
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def without_doubled_blanks(lines: Iterable[Line]) -> list[Line]:
    """The lines as they stand when white space is folded: one blank line at most between two others."""
    left: list[Line] = []
    for line in lines:
        if line.text or (left and left[-1].text):
            left.append(line)
    return left


def paragraphs_from_end(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """The same, the last first. What is cut while they are read does not part them."""
    block: list[Line] = []
    for line in reversed(lines):
        if line.own:
            block.append(line)
        elif block:
            yield block[::-1]
            block = []
    if block:
        yield block[::-1]


def cut_edits(lines: Sequence[Line]) -> list[Removed]:
    """The edits that remove what was cut; blank lines between two cut lines of one kind go with them."""
    edits: list[Removed] = []
    position = 0
    while position < len(lines):
        cut = lines[position].cut
        if cut is None:
            line = lines[position]
            if line.without_marks:
                edits.append(Removed("forward_header", "quote_mark", line.start, line.content))
            position += 1
            continue
        last, index = position, position + 1
        while index < len(lines) and (lines[index].cut == cut or (lines[index].cut is None and not lines[index].text)):
            if lines[index].cut == cut:
                last = index
            index += 1
        edits.append(Removed(*cut, lines[position].start, lines[last].stop))
        position = last + 1
    return edits
