"""A mail as lines with offsets, quote depth and what was decided about each line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mailtriage.edits import Removed
from mailtriage.html_text import Container

# No rule reads more of a line than this: a longer one is prose, and time must not grow with it.
LONGEST_RULE_TEXT = 2000

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)?")
# > > Guten Tag        >> Guten Tag
_QUOTE_MARK = re.compile(r"[ \t]*+>(?:[ \t]?>)*+[ \t]?")


class Line:
    """A line of a mail: `start` to `end` without its line break, `stop` with it.

    `text` is what rules look at: without quote marks and outer white space, cut at `LONGEST_RULE_TEXT` characters.
    `cut` is the kind and rule that removes the line, or `None` while it is the client's own.
    """

    __slots__ = ("container", "content", "cut", "depth", "end", "indented", "start", "stop", "text")

    def __init__(self, start: int, end: int, stop: int, text: str, depth: int, content: int) -> None:
        self.start = start
        self.end = end
        self.stop = stop
        self.text = text
        self.depth = depth
        self.content = content  # where the text after the quote marks starts
        self.container: tuple[str, str] | None = None
        self.indented = False
        self.cut: tuple[str, str] | None = None

    @property
    def quoted(self) -> bool:
        return self.depth > 0 or (self.container is not None and self.container[0] == "quote")

    @property
    def own(self) -> bool:
        """Still the client's, and not empty."""
        return self.cut is None and bool(self.text)


def split_lines(text: str, containers: Iterable[Container] = ()) -> list[Line]:
    """The lines of a mail; those that a container covers know it."""
    lines: list[Line] = []
    for match in _LINE.finditer(text):
        start, stop = match.span()
        if start == stop:
            break
        end = stop
        while end > start and text[end - 1] in "\r\n":
            end -= 1
        lines.append(_line(text, start, end, stop))
    _place(lines, containers)
    return lines


def _line(text: str, start: int, end: int, stop: int) -> Line:
    head = text[start : min(end, start + LONGEST_RULE_TEXT)]
    stripped = head.strip()
    if not stripped.startswith(">"):
        return Line(start, end, stop, stripped, 0, start)
    mark = _QUOTE_MARK.match(head)
    assert mark is not None
    return Line(start, end, stop, head[mark.end() :].strip(), mark[0].count(">"), start + mark.end())


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


def cut_edits(lines: Sequence[Line]) -> list[Removed]:
    """The edits that remove what was cut; blank lines between two cut lines of one kind go with them."""
    edits: list[Removed] = []
    position = 0
    while position < len(lines):
        cut = lines[position].cut
        if cut is None:
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
