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


def mentioned(lowered: str, words: Iterable[str]) -> list[str]:
    """Those of some words, in small letters, that stand in a text: a mail that has none needs no expression at all."""
    return [word for word in words if word in lowered]
