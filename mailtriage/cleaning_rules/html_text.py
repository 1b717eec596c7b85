"""The visible text of an HTML mail, with the way back to the source and the containers that mail clients leave."""

from __future__ import annotations

import html
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

from mailtriage.cleaning_rules.edits import Removed, apply_edits, merged


@dataclass(frozen=True, slots=True)
class Container:
    """An element that a mail client put around something, as offsets into the visible text."""

    kind: str  # "quote", "signature", "attribution", "hidden"
    rule: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class VisibleText:
    """`text` is the source after `edits`; `containers` are in the order in which they close."""

    text: str
    edits: list[Removed]
    containers: list[Container]


# A tag that mail programs write; `<max@example.org>` and `<Betrag>` are text.
_NAMES = frozenset(
    "a abbr address area article b base basefont big blockquote body br button caption center cite code col colgroup"
    " dd del details dfn dir div dl dt em figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i"
    " img input ins kbd label legend li link main map mark meta nav nobr noscript object ol option p pre q s samp"
    " script section select small span strike strong style sub summary sup table tbody td textarea tfoot th thead time"
    " title tr tt u ul var wbr".split()
)
# <div dir="ltr">   </p>   <o:p>   <br/>
_TAG = (
    r"<(?P<close>/?)(?P<name>[a-z]\w{0,12}(?::[a-z]\w{0,20})?)(?=[\s/>])"
    r"(?P<attributes>(?:[^<>\"']++|\"[^\"<]*+\"|'[^'<]*+')*+|[^<>]*+)>"
)
_IN_PRE = (
    rf"(?P<comment><!--)|(?P<declaration><[!?][^<>]*+>)|(?P<tag>{_TAG})"
    r"|(?P<entity>&(?:\#\d{1,7}|\#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});?)"
)
_WHOLE_TAG = re.compile(_TAG, re.IGNORECASE)
_PRE_TOKEN = re.compile(_IN_PRE, re.IGNORECASE)
_TOKEN = re.compile(_IN_PRE + r"|(?P<space>[ \t\r\n\f\u00a0]{2,}+|[\t\r\n\f\u00a0]|(?<=[>;])[ ])", re.IGNORECASE)
LONGEST_REMEMBERED_TAG = 300  # characters; the same tags come again and again, in a mail and from mail to mail
# <html>, <div dir="ltr">, <br>, </b>: enough to call a body HTML. A lone `<b>` or `<img>` in a plain mail is not.
_ANY_TAG = re.compile(r"<(/?)(!doctype|[a-z]\w{0,12}(?::[a-z]\w{0,20})?)(\s[^<>]*+)?/?>", re.IGNORECASE)
_TELLING = frozenset(
    "!doctype html head body div p br span table td style blockquote ul ol li h1 h2 h3 h4 h5 h6 pre center o:p".split()
)
# Gr&uuml;&szlig;e: a body without tags that a program wrote as HTML all the same
_TELLING_ENTITY = re.compile(r"&(?:[aouAOU]uml|szlig|nbsp);")
# <br>, </p>, <td>: a source that has none of these shows its own line breaks
_BREAKS_LINES = re.compile(
    r"</?(?:br|p|div|table|tr|td|li|ul|ol|blockquote|h[1-6]|body|html|pre|center|section|article)[\s/>]", re.IGNORECASE
)

_PARAGRAPHS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl"})
_BLOCKS = _PARAGRAPHS | frozenset(
    "address article blockquote body caption center dd details div dt fieldset figure footer form head header hr html"
    " li main nav pre section table tbody tfoot thead title tr".split()
)
_UNSEEN = {"style": "css", "script": "html", "title": "html", "noscript": "html", "select": "html"}
_NESTING = frozenset({"div", "blockquote", "span", "p", "table", "td", "section", "pre", "font", "a", "ul"})

# <div class="gmail_quote">, <blockquote type="cite">, <div name="quote">: tag, pattern of its attributes, kind, rule.
# The order matters: the first that fits decides.
_CONTAINERS: tuple[tuple[str, re.Pattern[str], str, str], ...] = tuple(
    (names, re.compile(pattern, re.IGNORECASE), kind, rule)
    for names, pattern, kind, rule in (
        # Gmail indents with <blockquote style="margin:0 0 0 40px;border:none;padding:0px">: the client's own words
        ("blockquote", r"border(?:-left)?\s*:\s*(?:none|0)", "", ""),
        # <blockquote type="cite"> (Apple Mail, Thunderbird)
        ("blockquote", r"\btype\s*=\s*[\"']?cite|\bcite\s*=", "quote", "blockquote_cite"),
        # <blockquote class="gmail_quote" style="...border-left:1px #ccc solid">
        ("blockquote", r"gmail_quote|protonmail_quote|yahoo|iosymail|border-left", "quote", "blockquote_client"),
        # <div class="yahoo_quoted" id="yahoo_quoted_0123456789">
        ("div", r"yahoo_quoted", "quote", "yahoo_quoted"),
        # <div name="quote" style="margin:10px 5px 5px 10px; border-left:2px solid #C3D9E5;"> (GMX, web.de)
        ("div", r"\bname\s*=\s*[\"']?quote\b", "quote", "gmx_quote"),
        # <div id="ms-outlook-mobile-body-separator-line">, <span id="OLK_SRC_BODY_SECTION"> (Outlook for Mac)
        ("div span", r"OLK_SRC_BODY_SECTION|ms-outlook-mobile-reference-message", "quote", "outlook_quote"),
        # <div class="moz-cite-prefix">Am 12.03.24 um 10:11 schrieb Max Muster:<br></div>
        ("div", r"moz-cite-prefix|gmail_attr", "attribution", "attribution_element"),
        # <pre class="moz-signature" cols="72">, <div class="gmail_signature">, <div id="Signature">
        (
            "div span pre p table",
            r"moz-signature|gmail_signature(?!_prefix)|protonmail_signature|ms-outlook-mobile-signature"
            r"|AppleMailSignature"
            r"|\bid\s*=\s*[\"']?(?:x_)*signature\b|mail_signature|\bclass\s*=\s*[\"']?signature[\"'\s]|data-smartmail",
            "signature",
            "signature_element",
        ),
        # <div style="display:none;max-height:0">Vorschautext</div>
        ("div span p td table", r"display\s*:\s*none|mso-hide\s*:\s*all", "hidden", "hidden_element"),
    )
)
_MENTIONS_CONTAINER = re.compile(
    r"quote|cite|border|signature|none|OLK_|outlook|attr|smartmail|mso-hide|yahoo", re.IGNORECASE
)
# <img src="https://t.example/p.gif" width="1" height="1">
_PIXEL = re.compile(
    r"\b(?:width|height)\s*[=:]\s*[\"']?[01](?:px)?\b|/(?:track|open|pixel|beacon)\b|display\s*:\s*none", re.IGNORECASE
)
# <p class=MsoNormal>, <p style="margin:0cm">: a line, not a paragraph
_TIGHT = re.compile(r"MsoNormal|MsoPlainText|margin(?:-top|-bottom)?\s*:\s*0", re.IGNORECASE)


def is_html(body: str) -> bool:
    """Whether a body is HTML source rather than plain text."""
    if "&" in body and _TELLING_ENTITY.search(body):
        return True
    if "<" not in body or ">" not in body:
        return False
    return any(_tells(tag[1], tag[2].lower(), tag[3]) for tag in _ANY_TAG.finditer(body))


def _tells(close: str, name: str, attributes: str | None) -> bool:
    if name in _TELLING:
        return True
    return name in _NAMES and (bool(close) or (name == "a" and attributes is not None))


def visible_text(source: str) -> VisibleText:
    """Turn HTML into the text that a mail program shows, line by line. Linear in the length of `source`."""
    return _Reader(source).read()


def without_markup_signs(source: str) -> VisibleText:
    """A text that still looks like HTML after every decoding, with each `<` taken out: it will not any more."""
    edits = [Removed("html", "nested_markup", sign.start(), sign.end()) for sign in re.finditer("<+", source)]
    return VisibleText(apply_edits(source, edits), edits, [])


@dataclass(frozen=True, slots=True)
class _Tag:
    """What a tag does: it shows as `mark`, on a new line below `lines` line breaks, or as the end of a `cell`."""

    name: str
    closes: bool
    lines: int
    mark: str
    cell: bool
    nests: bool
    hides: bool  # what it holds, where it is closed
    image: tuple[str, str] | None
    container: tuple[str, str]


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.edits: list[Removed] = []
        self.run: tuple[str, str] | None = None  # kind and rule of the tags just read, which become one edit
        self.run_start, self.run_end = -1, -1
        self.run_text: list[str] = []
        self.containers: list[Container] = []
        self.length = 0  # of the text so far
        self.breaks = 2  # line breaks at the end of the text so far; at the start, none are wanted
        self.space = True  # whether the text so far ends with white space
        self.preformatted = 0 if _BREAKS_LINES.search(source) else 1
        self.open: defaultdict[str, list[tuple[str, str, int]]] = defaultdict(list)
        self.absent: set[str] = set()  # closing marks that do not come any more

    def read(self) -> VisibleText:
        position, source = 0, self.source
        while (token := (_PRE_TOKEN if self.preformatted else _TOKEN).search(source, position)) is not None:
            if (start := token.start()) > position:
                self.keep(position, start)
            position = self.tag(token) if token.lastgroup == "tag" else self.take(token)
        self.keep(position, len(source))
        for stack in self.open.values():
            for kind, rule, start in reversed(stack):
                if kind and kind != "hidden":  # an element that never closes hides nothing
                    self.containers.append(Container(kind, rule, start, self.length))
        self.flush()
        edits = list(merged(self.edits))
        return VisibleText(apply_edits(source, edits), edits, self.containers)

    def take(self, token: re.Match[str]) -> int:
        """Handle one token that is no tag; returns where to go on."""
        group = token.lastgroup
        if group == "space":
            return self.white_space(token)
        if group == "entity":
            return self.entity(token)
        if group == "comment":
            end = self.find("-->", token.end())
            return self.drop("html", "comment", token.start(), token.end() if end < 0 else end + 3)
        return self.drop("html", "declaration", token.start(), token.end())

    def tag(self, token: re.Match[str]) -> int:
        source = token[0]
        tag = _remembered_tag(source) if len(source) <= LONGEST_REMEMBERED_TAG else _read_tag(source)
        start, end = token.span()
        if tag is None:
            self.keep(start, start + 1)
            return start + 1
        if tag.hides:
            closing = self.find_close(tag.name, end)
            if closing >= 0:
                return self.drop(_UNSEEN[tag.name], tag.name, start, closing)
        if tag.image is not None:
            return self.drop(*tag.image, start, end)
        if tag.closes and tag.nests:
            self.close(tag.name)
        self.edit("html", "tag", start, end, self.shown(tag))
        if tag.name == "pre":
            self.preformatted = max(0, self.preformatted - 1) if tag.closes else self.preformatted + 1
        if tag.nests and not tag.closes:
            self.open[tag.name].append((*tag.container, self.length))
        return end

    def close(self, name: str) -> None:
        stack = self.open[name]
        if stack:
            kind, rule, start = stack.pop()
            if kind and self.length > start:
                self.containers.append(Container(kind, rule, start, self.length))

    def shown(self, tag: _Tag) -> str:
        """The line breaks or the space as which a tag shows."""
        if tag.lines:
            return "\n" * (tag.lines - self.breaks) + tag.mark
        return " " if tag.cell and not self.space else tag.mark

    def white_space(self, token: re.Match[str]) -> int:
        start, end = token.span()
        if self.space and "\u00a0" not in token[0]:
            self.edit("whitespace", "html_space", start, end, "")
        elif end - start == 1 and token[0] == " ":
            self.keep(start, end)
        else:
            self.edit("whitespace", "html_space", start, end, " ")
        return end

    def entity(self, token: re.Match[str]) -> int:
        text = _unescape(token[0])
        if text == token[0]:
            self.keep(*token.span())
        else:
            self.edit("html", "entity", token.start(), token.end(), " " if text == "\u00a0" else text)
        return token.end()

    def keep(self, start: int, end: int) -> None:
        if end > start:
            if self.preformatted:
                self.grown(self.source[start:end])
                return
            self.length += end - start
            self.breaks = 0  # outside of <pre>, line breaks are tokens of their own
            self.space = self.source[end - 1] == " "

    def drop(self, kind: str, rule: str, start: int, end: int) -> int:
        self.edit(kind, rule, start, end, "")
        return end

    def edit(self, kind: str, rule: str, start: int, end: int, text: str) -> None:
        if self.run_end != start or self.run != (kind, rule):
            self.flush()
            self.run, self.run_start = (kind, rule), start
        self.run_end = end
        if text:
            self.run_text.append(text)
            self.grown(text)

    def flush(self) -> None:
        """Note the run of neighbouring tags that has just ended as one edit."""
        if self.run is not None:
            self.edits.append(Removed(*self.run, self.run_start, self.run_end, "".join(self.run_text)))
            self.run, self.run_end, self.run_text = None, -1, []

    def grown(self, text: str) -> None:
        self.length += len(text)
        tail = len(text) - len(text.rstrip("\n"))
        self.breaks = tail + (self.breaks if tail == len(text) else 0)
        self.space = text[-1] in " \t\r\n"

    def find(self, mark: str, position: int) -> int:
        """Like `str.find`, but a mark that is absent is looked for only once."""
        if mark in self.absent:
            return -1
        found = self.source.find(mark, position)
        if found < 0:
            self.absent.add(mark)
        return found

    def find_close(self, name: str, position: int) -> int:
        """Where the element ends, or -1."""
        if name in self.absent:
            return -1
        found = _CLOSE[name].search(self.source, position)
        if found is None:
            self.absent.add(name)
            return -1
        return found.end()


def _read_tag(source: str) -> _Tag | None:
    """What a tag does, or `None` for `<Betrag>` and its like, which are text."""
    token = _WHOLE_TAG.match(source)
    if token is None:
        return None
    name, closes, attributes = token["name"].lower(), bool(token["close"]), token["attributes"]
    if name not in _NAMES and ":" not in name:
        return None
    lines, mark, image = 0, "", None
    if name == "br":
        mark = "\n"
    elif name in _BLOCKS:
        lines = 2 if name in _PARAGRAPHS and not closes and not _TIGHT.search(attributes) else 1
        mark = "- " if name == "li" and not closes else ""
    elif name == "img" and not closes:
        image = ("tracking", "pixel") if _PIXEL.search(attributes) else ("html", "image")
    nests = name in _NESTING
    container = _container(name, attributes) if nests and not closes else ("", "")
    return _Tag(
        name, closes, lines, mark, name in ("td", "th"), nests, name in _UNSEEN and not closes, image, container
    )


_remembered_tag = lru_cache(maxsize=2048)(_read_tag)
_unescape = lru_cache(maxsize=1024)(html.unescape)
_CLOSE = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in _UNSEEN}


def _container(name: str, attributes: str) -> tuple[str, str]:
    if attributes and _MENTIONS_CONTAINER.search(attributes):
        for names, pattern, kind, rule in _CONTAINERS:
            if name in names.split() and pattern.search(attributes):
                return kind, rule
    return ("indent", "blockquote") if name == "blockquote" else ("", "")
