"""Builds regular expressions from alternatives, so that each can stand below the mail line that it was written for."""

from __future__ import annotations

import re
from collections.abc import Iterable


def any_of(*alternatives: str) -> str:
    """The source of an expression that matches any of these."""
    return "(?:" + "|".join(alternatives) + ")"


def pattern(*alternatives: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    """An expression that matches any of these; upper and lower case are the same unless `flags` says otherwise."""
    return re.compile(any_of(*alternatives), flags)


class Telling:
    """Words in small letters, one of which is in whatever a rule looks for."""

    __slots__ = ("words",)

    def __init__(self, *words: str) -> None:
        self.words = words


class Mentions:
    """Which telling words a mail holds; each rule's are looked for once. `lowered` is the mail in small letters."""

    __slots__ = ("found", "lowered")

    def __init__(self, text: str) -> None:
        self.lowered = text.lower()
        self.found: dict[Telling, list[str]] = {}

    def of(self, telling: Telling) -> list[str]:
        """Those of a rule's words that the mail holds."""
        words = self.found.get(telling)
        if words is None:
            words = self.found[telling] = mentioned(self.lowered, telling.words)
        return words


def mentioned(lowered: str, words: Iterable[str]) -> list[str]:
    """Those of some words, in small letters, that stand in a text."""
    return [word for word in words if word in lowered]
