"""Finds what converters from HTML leave in a text: style rules and names of images."""

from __future__ import annotations

from collections.abc import Sequence

from mailtriage.cleaning_rules.mail_lines import Line
from mailtriage.cleaning_rules.patterns import pattern

_INLINE_IMAGE = pattern(
    # [cid:image001.png@01DA7F00.12345678]      [image: Logo]      [Bild: Logo der Musterbank]<https://example.org>
    r"(?:\s*\[(?:cid:[^\[\]\s]{1,120}|image(?:: ?[^\[\]]{0,80})?|Bild: ?[^\[\]]{0,80}"
    r"|https?://[^\[\]\s]{1,300}\.(?:png|gif|jpe?g)[^\[\]\s]{0,100})\]"
    r"(?:<[^<>\s]{1,300}>)?){1,20}\s*$"
)
# .MsoNormal { margin: 0cm; }      @media screen {
_OPENS_STYLE = pattern(r"[.#@]?[a-z][\w.#, :>*()-]{0,120}\{")
_STYLE = pattern(
    # body { font-family: Arial; }      .MsoNormal {
    r"[.#@]?[a-z][\w.#, :>*()-]{0,120}\{[^{}]{0,400}\}?\s*$",
    # font-size: 11pt;
    r"[a-z-]{3,30}\s*:\s*[^:;{}]{1,80};\s*\}?\s*$",
    # }      /* Outlook */      <!--      v\:* {behavior:url(#default#VML);}
    r"\}\s*$|/\*[^*]{0,200}\*/\s*$|<!--\s*$|-->\s*$|[vow]\\:\*.{0,100}$",
)


def cut_leftovers(lines: Sequence[Line]) -> None:
    """Mark lines that only name images (`html`), and at least two lines of style rules together (`css`)."""
    position = 0
    while position < len(lines):
        line = lines[position]
        if line.own and line.text[0] == "[" and _INLINE_IMAGE.match(line.text):
            line.cut = ("html", "inline_image")
        elif line.own and "{" in line.text and _OPENS_STYLE.match(line.text):
            position = _cut_style(lines, position)
            continue
        position += 1


def _cut_style(lines: Sequence[Line], start: int) -> int:
    end = start
    while end < len(lines) and (not lines[end].text or _STYLE.match(lines[end].text)):
        end += 1
    block = [line for line in lines[start:end] if line.own]
    if len(block) >= 2 and any("}" in line.text for line in block) and any(";" in line.text for line in block):
        for line in block:
            line.cut = ("css", "style_rules")
    return max(end, start + 1)
