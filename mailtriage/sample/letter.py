"""A mail before it becomes text: what was written, and what mail programs and firms add around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


@dataclass(slots=True)
class Earlier:
    """A message that a mail quotes or forwards. `paragraphs` hold the whole message, greeting to signature."""

    name: str
    address: str
    to: str
    sent_at: datetime
    subject: str
    paragraphs: list[str]


@dataclass(slots=True)
class Letter:
    """One mail in parts; every text is as it was typed."""

    subject: str
    greeting: str
    paragraphs: list[str]
    closing: list[str]
    postscript: str = ""
    signature: list[str] = field(default_factory=list)
    dashes: bool = False
    legal: list[str] = field(default_factory=list)
    legal_last: bool = False
    footer: str = ""
    earlier: list[Earlier] = field(default_factory=list)
    forwarded: list[Earlier] = field(default_factory=list)

    def as_paragraphs(self) -> list[str]:
        """The message as the receiver of a reply would quote it."""
        parts = [self.greeting, *self.paragraphs, "\n".join(self.closing), "\n".join(self.signature)]
        return [part for part in parts if part]
