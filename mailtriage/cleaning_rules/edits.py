"""Edits of a text that can be explained one by one and chained: the spans that cleaning removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple


class Removed(NamedTuple):
    """The characters `start` to `end` of a text gave way to `replacement`.

    `kind` says what stood there (`quote`, `signature`, ...), `rule` which rule decided it.
    """

    kind: str
    rule: str
    start: int
    end: int
    replacement: str = ""


# Where there are hundreds of thousands, this makes them in half the time.
make_removed: Callable[[tuple[str, str, int, int, str]], Removed] = partial(tuple.__new__, Removed)


def apply_edits(text: str, edits: Sequence[Removed]) -> str:
    """The text with every span replaced; `edits` are in order and do not overlap."""
    if not edits:
        return text
    parts: list[str] = []
    position = 0
    for _kind, _rule, start, end, replacement in edits:
        parts.append(text[position:start])
        parts.append(replacement)
        position = end
    parts.append(text[position:])
    return "".join(parts)


def compose(first: Sequence[Removed], second: Sequence[Removed]) -> list[Removed]:
    """One list of edits that does what `first` and then `second` do.

    Offsets of `second` are offsets into the text after `first`; those of the answer are offsets into the text before.
    A second edit takes over the first edits that lie inside of it. Linear in the number of edits.
    """
    if not first or not second:
        return list(first or second)
    pieces = _split_at(_located(first), second)
    composed: list[Removed] = []
    position = 0  # in `pieces`
    shift = 0  # offset in the first text minus offset in the text after `first`
    for index, edit in enumerate(second):
        if position == len(pieces):
            composed += _moved(second[index:], shift)
            break
        while position < len(pieces) and pieces[position][1] <= edit.start:
            shift = pieces[position][2].end - pieces[position][1]
            composed.append(pieces[position][2])
            position += 1
        inside: list[Removed] = []
        start = edit.start + shift
        while position < len(pieces) and pieces[position][1] <= edit.end and pieces[position][0] < edit.end:
            inside.append(pieces[position][2])
            shift = inside[-1].end - pieces[position][1]
            position += 1
        if not inside and not shift:
            composed.append(edit)
            continue
        whole = Removed(edit.kind, edit.rule, start, edit.end + shift, edit.replacement)
        if edit.kind == "whitespace" and inside:
            composed.extend(_around(whole, inside))
        else:
            composed.append(whole)
    composed.extend(piece[2] for piece in pieces[position:])
    return list(merged(composed))


def _moved(edits: Sequence[Removed], shift: int) -> Sequence[Removed]:
    if not shift:
        return edits
    return [make_removed((kind, rule, start + shift, end + shift, put)) for kind, rule, start, end, put in edits]


def _around(whole: Removed, inside: Sequence[Removed]) -> Iterator[Removed]:
    """White space that was trimmed around earlier edits: they keep their kinds, and the first part its replacement."""
    position, replacement = whole.start, whole.replacement
    for inner in inside:
        if inner.start > position:
            yield Removed(whole.kind, whole.rule, position, inner.start, replacement)
            replacement = ""
        if inner.end > inner.start:
            yield Removed(inner.kind, inner.rule, inner.start, inner.end, replacement)
            replacement = ""
        position = inner.end
    if whole.end > position or replacement:
        yield Removed(whole.kind, whole.rule, position, whole.end, replacement)


def merged(edits: Sequence[Removed]) -> Sequence[Removed]:
    """Join neighbours of the same kind and rule, and an insertion with the edit that it touches."""
    position = -1
    for _kind, _rule, start, end, replacement in edits:
        if start == position or (start == end and not replacement):
            return list(_joined_neighbours(edits))
        position = end
    return edits


def _does_something(edit: Removed) -> bool:
    return edit.start != edit.end or edit.replacement != ""


def _joined_neighbours(edits: Iterable[Removed]) -> Iterator[Removed]:
    run: list[Removed] = []  # touching edits that become one
    for edit in edits:
        if not _does_something(edit):
            continue
        if run and run[-1].end == edit.start:
            first = run[0]
            if edit.start == edit.end or (first.rule == edit.rule and first.kind == edit.kind):
                run.append(edit)
                continue
        if run:
            yield _joined(run)
        run = [edit]
    if run:
        yield _joined(run)


def _joined(run: Sequence[Removed]) -> Removed:
    if len(run) == 1:
        return run[0]
    first = run[0]
    return Removed(first.kind, first.rule, first.start, run[-1].end, "".join(edit.replacement for edit in run))


# An edit with where its replacement stands in the text after it: start, end, edit.
_Located = tuple[int, int, Removed]


def _located(edits: Sequence[Removed]) -> Iterator[_Located]:
    shift = 0
    for edit in edits:
        start = edit.start + shift
        yield start, start + len(edit.replacement), edit
        shift += len(edit.replacement) - (edit.end - edit.start)


def _split_at(pieces: Iterable[_Located], edits: Sequence[Removed]) -> list[_Located]:
    """Split a replacement where an edit begins or ends inside of it; the second part then covers nothing."""
    cuts = [offset for edit in edits for offset in (edit.start, edit.end)]
    result: list[_Located] = []
    position = 0
    for start, end, edit in pieces:
        while position < len(cuts) and cuts[position] <= start:
            position += 1
        begin, rest = start, edit
        while position < len(cuts) and cuts[position] < end:
            cut = cuts[position]
            head, tail = rest.replacement[: cut - begin], rest.replacement[cut - begin :]
            if head:
                result.append((begin, cut, Removed(rest.kind, rest.rule, rest.start, rest.end, head)))
                rest = Removed(rest.kind, rest.rule, rest.end, rest.end, tail)
            begin = cut
            position += 1
        result.append((begin, end, rest))
    return result
