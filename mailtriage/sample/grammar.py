"""The small language of the sample grammars: patterns with slots and alternatives.

    {slot}           filled from the list of that name in the grammar, or by a fact such as an amount
    [one|two|]       one of these; the empty alternative leaves it out

Alternatives nest and may hold slots. A slot that ends in a digit (`{date2}`) is a second fact of the same kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mailtriage.errors import DataError, nearest
from mailtriage.sample.dice import Dice


@dataclass(frozen=True, slots=True)
class Slot:
    name: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these; an option without slots or choices is kept as its text, because most are."""

    options: tuple[str | Pattern, ...]


Pattern: TypeAlias = tuple[str | Slot | Choice, ...]
Patterns: TypeAlias = tuple[Pattern, ...]

_TOKEN = re.compile(r"\{(\w+)\}|[\[\]|{}]|[^\[\]|{}]+")


def parse(text: str) -> Pattern:
    """Read one pattern.

    Raises:
        DataError: a bracket that nothing closes or opens.
    """
    levels: list[list[list[str | Slot | Choice]]] = [[[]]]
    for token in _TOKEN.finditer(text):
        piece = token.group()
        if token.group(1):
            levels[-1][-1].append(Slot(token.group(1)))
        elif piece == "[":
            levels.append([[]])
        elif piece == "|" and len(levels) > 1:
            levels[-1].append([])
        elif piece == "]" and len(levels) > 1:
            options = levels.pop()
            levels[-1][-1].append(Choice(tuple(_option(option) for option in options)))
        elif piece in "{}[]|":
            raise DataError(f"the pattern '{text}' has a '{piece}' that nothing opens or closes")
        else:
            levels[-1][-1].append(piece)
    if len(levels) > 1:
        raise DataError(f"the pattern '{text}' has a '[' that nothing closes")
    return tuple(levels[0][0])


def _option(parts: list[str | Slot | Choice]) -> str | Pattern:
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else tuple(parts)


def slots_of(pattern: Pattern) -> set[str]:
    """The names of all slots in a pattern."""
    names: set[str] = set()
    for part in pattern:
        if isinstance(part, Slot):
            names.add(part.name)
        elif isinstance(part, Choice):
            names.update(*(slots_of(option) for option in part.options if not isinstance(option, str)))
    return names


def check_slots(patterns: Sequence[Pattern], known: Collection[str], where: str) -> None:
    """
    Raises:
        DataError: a pattern names a slot that is not known; the message names the nearest.
    """
    for pattern in patterns:
        for name in slots_of(pattern):
            if name.rstrip("0123456789") not in known and name not in known:
                raise DataError(f"{where} names an unknown slot '{name}'{nearest(name, known)}")


class Teller:
    """Fills the patterns of one mail. A fact that was told once stays the same to the end of the mail.

    `lists` maps a slot to patterns; those in `remembered` are drawn once a mail. `facts` tells any other slot.
    """

    __slots__ = ("_facts", "_lists", "_remembered", "_told", "dice")

    def __init__(
        self,
        dice: Dice,
        lists: Mapping[str, Patterns],
        remembered: Collection[str],
        facts: Callable[[str], str],
        told: Mapping[str, str] | None = None,
    ) -> None:
        self.dice = dice
        self._lists = lists
        self._remembered = remembered
        self._facts = facts
        self._told = dict(told or {})

    def tell(self, slot: str) -> str:
        """The text of one slot."""
        if slot in self._told:
            return self._told[slot]
        kind = slot.rstrip("0123456789")
        patterns = self._lists.get(kind)
        text = self._facts(kind) if patterns is None else self.fill(self.dice.pick(patterns))
        if patterns is None or kind in self._remembered:
            self._told[slot] = text
        return text

    def fill(self, pattern: Pattern) -> str:
        out = []
        for part in pattern:
            if type(part) is str:
                out.append(part)
            elif type(part) is Slot:
                out.append(self.tell(part.name))
            else:
                option = self.dice.pick(part.options)  # type: ignore[union-attr]
                out.append(option if type(option) is str else self.fill(option))
        return "".join(out)
