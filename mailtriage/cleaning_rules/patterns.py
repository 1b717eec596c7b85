"""Builds a regular expression from alternatives, so that each can stand below the mail line that it was written for."""

from __future__ import annotations

import re


def any_of(*alternatives: str) -> str:
    """The source of an expression that matches any of these."""
    return "(?:" + "|".join(alternatives) + ")"


def pattern(*alternatives: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    """An expression that matches any of these; upper and lower case are the same unless `flags` says otherwise."""
    return re.compile(any_of(*alternatives), flags)
