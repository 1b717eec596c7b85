"""Shows a mail with what cleaning removed struck out and coloured by kind: in the terminal, and as HTML."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator

from rich.text import Text

from mailtriage.cleaning import Cleaned

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
_CONTROLS = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {127: "\u2421"}


def terminal_view(body: str, cleaned: Cleaned, markup: bool = False) -> Text:
    """The body for a terminal, with a legend below; control characters show as symbols and do nothing."""
    text = Text()
    for kind, _, piece in _pieces(body, cleaned, markup):
        text.append(piece.translate(_CONTROLS), style=f"strike {KINDS[kind][0]}" if kind else "")
    if cleaned.kept_as_last_resort:
        text.append("\n\nEvery line looked like something to cut; the best block was kept.", style="bold")
    text.append("\n\n")
    for kind, spans in _counted(cleaned, markup):
        text.append(f"{KINDS[kind][2]} ({spans})", style=f"strike {KINDS[kind][0]}")
        text.append("   ")
    return text


def html_view(body: str, cleaned: Cleaned, markup: bool = False) -> str:
    """The body as an HTML fragment that needs no style sheet; a struck part tells kind and rule when pointed at."""
    parts = ['<pre class="mail" style="white-space:pre-wrap;font-family:inherit">']
    for kind, rule, piece in _pieces(body, cleaned, markup):
        shown = html.escape(piece.translate(_CONTROLS))
        parts.append(f'<del title="{_name(kind)}: {html.escape(rule)}" {_style(kind)}>{shown}</del>' if kind else shown)
    parts.append("</pre>")
    if cleaned.kept_as_last_resort:
        parts.append("<p><strong>Every line looked like something to cut; the best block was kept.</strong></p>")
    legend = " ".join(f"<del {_style(kind)}>{_name(kind)} ({spans})</del>" for kind, spans in _counted(cleaned, markup))
    return "".join(parts) + f'<p class="legend">{legend}</p>'


def _name(kind: str) -> str:
    return KINDS[kind][2]


def _style(kind: str) -> str:
    return f'style="color:{KINDS[kind][1]}"'


def _pieces(body: str, cleaned: Cleaned, markup: bool) -> Iterator[tuple[str, str, str]]:
    """The body in parts: kind and rule where it was removed (empty where it stays), and the characters."""
    position = 0
    for span in cleaned.removed:
        yield "", "", body[position : span.start]
        if markup or span.kind not in MARKUP:
            yield span.kind, span.rule, body[span.start : span.end]
        yield "", "", span.replacement
        position = span.end
    yield "", "", body[position:]


def _counted(cleaned: Cleaned, markup: bool) -> list[tuple[str, int]]:
    counts = Counter(span.kind for span in cleaned.removed if markup or span.kind not in MARKUP)
    return [(kind, counts[kind]) for kind in KINDS if counts[kind]]
