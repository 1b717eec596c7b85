"""Shows a mail with what cleaning removed struck out and coloured by kind: in the terminal, and as a page of HTML."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.text import Text

from mailtriage.cleaning import Cleaned, Removed
from mailtriage.cleaning_rules.html_text import is_html, visible_text
from mailtriage.mail import Email

# Kind: colour in the terminal, colour in HTML, what it is called.
KINDS: dict[str, tuple[str, str, str]] = {
    "quote": ("blue", "#1d4ed8", "earlier message"),
    "forward_header": ("cyan", "#0e7490", "headings of a forward"),
    "signature": ("magenta", "#a21caf", "signature"),
    "legal_footer": ("yellow", "#a16207", "imprint"),
    "disclaimer": ("red", "#b91c1c", "disclaimer"),
    "client_footer": ("green", "#15803d", "footer of an app"),
    "tracking": ("bright_red", "#be123c", "tracking"),
    "greeting": ("bright_blue", "#4338ca", "salutation"),
    "html": ("bright_black", "#6b7280", "markup"),
    "css": ("bright_black", "#6b7280", "style rules"),
    "whitespace": ("bright_black", "#9ca3af", "white space"),
    "redacted": ("bright_yellow", "#c2410c", "redacted"),
}
# Kinds that only stand for how the text was written: shown by what took their place, unless asked for.
MARKUP = frozenset({"html", "css", "whitespace"})
LAST_RESORT = "Every line looked like something to cut; the best block was kept."
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_CONTROLS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {127: "\u2421"}


class Piece(NamedTuple):
    """Characters to show; `kind` and `rule` are empty where they stay."""

    kind: str
    rule: str
    text: str


def terminal_view(body: str, cleaned: Cleaned, markup: bool = False, notes: Sequence[str] = ()) -> Text:
    """The body for a terminal, with notes and a legend below; control characters show as symbols and do nothing."""
    text = Text()
    for kind, _, piece in _pieces(body, cleaned, markup):
        text.append(piece, style=f"strike {KINDS[kind][0]}" if kind else "")
    text.rstrip()
    if cleaned.kept_as_last_resort:
        text.append(f"\n\n{LAST_RESORT}", style="bold")
    for note in notes:
        text.append(f"\n\nNote: {note}", style="bold")
    text.append("\n\n")
    for kind, spans in _counted(cleaned, markup):
        text.append(f"{KINDS[kind][2]} ({spans})", style=f"strike {KINDS[kind][0]}")
        text.append("   ")
    return text


def html_view(body: str, cleaned: Cleaned, markup: bool = False, notes: Sequence[str] = ()) -> str:
    """The body as an HTML fragment, to be shown with `STYLE`; a struck part tells kind and rule when pointed at."""
    parts = ['<pre class="mail">']
    for kind, rule, piece in _pieces(body, cleaned, markup):
        shown = html.escape(piece)
        title = f"{_name(kind)}: {rule}" if kind else ""
        parts.append(f'<del class="{kind}" title="{html.escape(title)}">{shown}</del>' if kind else shown)
    parts.append("</pre>")
    if cleaned.kept_as_last_resort:
        parts.append(f'<p class="note">{LAST_RESORT}</p>')
    parts.extend(f'<p class="note">Note: {html.escape(note)}</p>' for note in notes)
    return "".join(parts) + _legend(_counted(cleaned, markup))


def html_page(mails: Iterable[tuple[Email, Cleaned]]) -> Iterator[str]:
    """A page of mails as it is written, mail by mail; it needs no other file."""
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>What cleaning removed</title>\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<style>{STYLE}</style></head><body>\n<h1>What cleaning removed</h1>\n"
    yield "<p>Struck out is what was cut, in the colour of its kind; point at it to see the rule that decided.</p>\n"
    for mail, cleaned in mails:
        given = "".join(piece.text for piece in _pieces(mail.body, cleaned)).split()
        yield f"<article><header><h2>{html.escape(cleaned.subject or '(no subject)')}</h2>"
        identifier, kept = html.escape(mail.id.translate(_CONTROLS)), len(cleaned.text.split())
        yield f"<p>{identifier} · {kept:,} of {len(given):,} words kept</p></header>"
        yield html_view(mail.body, cleaned, notes=mail.notes) + "</article>\n"
    yield "</body></html>\n"


def _name(kind: str) -> str:
    return KINDS[kind][2]


def _legend(counted: list[tuple[str, int]]) -> str:
    items = "".join(f'<li class="{kind}">{_name(kind)}<b>{spans}</b></li>' for kind, spans in counted)
    return f'<ul class="legend">{items}</ul>' if items else '<p class="note">Nothing was cut.</p>'


def _pieces(body: str, cleaned: Cleaned, markup: bool = False) -> Iterator[Piece]:
    """The body in parts as a person reads them; those that stay are the cleaned text."""
    source = is_html(body) and not markup
    shown = [piece for piece in _spans(body, cleaned.removed, markup) if piece.text]
    before, breaks = Piece("", "", ""), 0
    for kind, rule, characters in shown:
        text = characters
        if kind:
            text = _layout(characters) if source else characters.replace("\r\n", "\n")
        if kind in MARKUP and not markup:
            breaks += text.count("\n")
            continue
        text = text.translate(_CONTROLS)
        ended = len(before.text) - len(before.text.rstrip("\n"))
        missing = min(2 - ended, breaks)
        if before.text and missing > 0 and (kind or before.kind):
            # White space beside a part that went: the part would otherwise run on from the words before it.
            yield Piece(kind or before.kind, rule or before.rule, "\n" * missing)
        before, breaks = Piece(kind, rule, text), 0
        yield before


def _spans(body: str, removed: Iterable[Removed], markup: bool) -> Iterator[Piece]:
    """What stays and what went, by turns; markup that gave way to something is shown by that, unless asked for."""
    position = 0
    for span in removed:
        yield Piece("", "", body[position : span.start])
        if markup or span.kind not in MARKUP or not span.replacement:
            yield Piece(span.kind, span.rule, body[span.start : span.end])
        yield Piece("", "", span.replacement)
        position = span.end
    yield Piece("", "", body[position:])


def _layout(source: str) -> str:
    """A part of an HTML body as a mail program shows it, with at most one blank line at a time."""
    return _BLANK_LINES.sub("\n\n", visible_text(f"x{source}x").text[1:-1])


def _counted(cleaned: Cleaned, markup: bool) -> list[tuple[str, int]]:
    counts = Counter(span.kind for span in cleaned.removed if markup or span.kind not in MARKUP)
    return [(kind, counts[kind]) for kind in KINDS if counts[kind]]


STYLE = (
    """
:root { color-scheme: light dark; --page: #f5f5f4; --card: #fff; --ink: #1c1917; --dim: #78716c; --line: #e7e5e4 }
@media (prefers-color-scheme: dark) {
  :root { --page: #131211; --card: #1f1d1b; --ink: #f0eeec; --dim: #a8a29e; --line: #37332f }
}
body { margin: 0 auto; max-width: 52rem; padding: 2rem 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, sans-serif }
h1 { font-size: 1.4rem; margin: 0 } h1 + p { color: var(--dim); margin: .25rem 0 1.5rem }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; margin: 0 0 1.25rem;
  break-inside: avoid }
header { padding: .8rem 1.1rem; border-bottom: 1px solid var(--line) }
h2 { font-size: 1.05rem; margin: 0; overflow-wrap: anywhere }
header p { margin: 0; color: var(--dim); font-size: .85rem; overflow-wrap: anywhere }
.mail { margin: 0; padding: 1rem 1.1rem; font: inherit; white-space: pre-wrap; overflow-wrap: anywhere; tab-size: 4 }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .4rem; margin: 0; padding: 0 1.1rem 1rem }
.legend li { padding: .05rem .6rem; border-radius: 1rem; font-size: .8rem }
.legend b { margin-left: .4em; font-weight: 600; opacity: .75 }
.note { margin: 0; padding: 0 1.1rem 1rem; color: var(--dim); font-size: .85rem }
del, .legend li { color: var(--kind); background: color-mix(in srgb, var(--kind) 9%, transparent) }
del { text-decoration-color: color-mix(in srgb, var(--kind) 60%, transparent); border-radius: .2rem; cursor: help }
del:hover { background: color-mix(in srgb, var(--kind) 25%, transparent) }
"""
    + "".join(f".{kind} {{ --kind: {colour} }}\n" for kind, (_, colour, _) in KINDS.items())
    + "@media (prefers-color-scheme: dark) {\n"
    + "".join(
        f"  .{kind} {{ --kind: color-mix(in srgb, {colour} 45%, white) }}\n" for kind, (_, colour, _) in KINDS.items()
    )
    + "}\n"
)
