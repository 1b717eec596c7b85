"""RFC 822 messages: from the bytes of a mail to its subject and the text that its sender wrote."""

from __future__ import annotations

import binascii
import codecs
import email
import email.policy
import email.utils
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.message import Message as Mime

from mailtriage.cleaning_rules.html_text import visible_text
from mailtriage.errors import InvalidMail
from mailtriage.mail import Email

# More parts than this are not looked at: no mail that a person writes has them.
MOST_PARTS = 2000
LONGEST_HEADER = 20_000  # characters; and of one with parameters, which take time by the square of its length:
LONGEST_PARAMETERS = 4000


class _ShortHeaders(email.policy.Compat32):
    """Reads headers as ever, but no more of one than a mail program or a person writes."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        name, value = super().header_source_parse(sourcelines)
        return name, value[: LONGEST_PARAMETERS if name.lower().startswith("content-") else LONGEST_HEADER]


_SHORT_HEADERS = _ShortHeaders()


@dataclass(frozen=True, slots=True)
class Message:
    """A mail, and notes for a person about what in it was left alone (never the mail's text)."""

    mail: Email
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Text:
    text: str
    is_html: bool = False


@dataclass(slots=True)
class _Reading:
    notes: list[str] = field(default_factory=list)
    parts: int = 0
    attachments: int = 0
    opaque: bool = False  # something was left alone that may hold files

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def read_message(data: bytes, fallback_id: str) -> Message:
    """Read the bytes of a message; its `id` is its Message-ID, or `fallback_id` where it has none.

    Its `thread_id` is the first Message-ID of `References`, else of `In-Reply-To`, else its own.

    The body is the plain text where that is really the mail's text, else the HTML source.

    Raises:
        InvalidMail: the message holds no text, or its parts nest too deeply.
    """
    try:
        message = email.message_from_bytes(data, policy=_SHORT_HEADERS)
        reading = _Reading()
        text = _text_of(message, reading)
    except RecursionError:
        raise InvalidMail("too_deep", "expected a message with fewer nested parts") from None
    subject = header(message, "Subject")
    if not subject.strip() and not text.text.strip():
        raise InvalidMail("no_text", "expected a text in the message's subject or parts, found none")
    own = _identifier(message)
    mail = Email(
        own or fallback_id,
        subject,
        text.text,
        _date(message),
        thread_id=_thread(message) or own or None,
        attachments=None if reading.opaque else reading.attachments,
    )
    return Message(mail, tuple(reading.notes))


def header(message: Mime, name: str) -> str:
    """A header as text: encoded words decoded, raw 8-bit bytes guessed, folding undone; empty where it is missing."""
    for key, value in message.raw_items():
        if key.lower() == name.lower():
            raw = str(value).encode("utf-8", "surrogateescape")
            return _unfolded(decode_words(decode(raw, None)))
    return ""


_LINE_BREAKS = re.compile(r"[\r\n]+")


def _unfolded(text: str) -> str:
    """A header in one line: a search for the white space around a break would try each run of spaces over and over."""
    return " ".join(filter(None, (part.strip() for part in _LINE_BREAKS.split(text))))


# =?utf-8?Q?Depot=C3=BCbertrag?= =?utf-8?B?IGF1cyBN?=
_ENCODED_WORD = re.compile(r"=\?([^?\s]{1,60})\?([bq])\?([^?]*)\?=(?:\s+(?==\?[^?\s]{1,60}\?[bq]\?))?", re.IGNORECASE)


def decode_words(text: str) -> str:
    """Decode RFC 2047 encoded words; a character may be split over two neighbours of one charset."""
    parts: list[str] = []
    pending, charset, position = b"", "", 0
    for word in _ENCODED_WORD.finditer(text):
        if word.start() > position or word[1].lower() != charset:
            parts.append(decode(pending, charset))
            pending = b""
            parts.append(text[position : word.start()])
        charset, position = word[1].lower(), word.end()
        pending += _word_bytes(word[2], word[3])
    parts.append(decode(pending, charset))
    return "".join(parts) + text[position:]


def _word_bytes(encoding: str, content: str) -> bytes:
    raw = content.encode("utf-8", "replace")
    if encoding.lower() == "q":
        return binascii.a2b_qp(raw, header=True)
    try:
        return binascii.a2b_base64(raw + b"=" * (-len(raw) % 4))
    except binascii.Error:
        return raw


# Names that mail programs give to charsets, beside those that Python knows; a browser reads latin-1 as cp1252 too.
_CHARSETS = {
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "latin-1": "cp1252",
    "us-ascii": "utf-8",
    "ascii": "utf-8",
    "ansi": "cp1252",
}


def decode(data: bytes, charset: str | None) -> str:
    """Decode bytes as declared; where that fails, as UTF-8, and where that fails, as Windows-1252. Never raises."""
    name = (charset or "").split("*")[0].strip(" \"'").lower()
    for candidate in (_CHARSETS.get(name, name), "utf-8", "cp1252"):
        try:
            if candidate and codecs.lookup(candidate).name != "utf-7":
                return data.decode(candidate)
        except (LookupError, UnicodeError, ValueError):
            continue
    return data.decode("latin-1")


def _identifier(message: Mime) -> str:
    return header(message, "Message-ID").strip("<> \t")[:500]


_MESSAGE_ID = re.compile(r"<([^<>\s]{1,500})>")


def _thread(message: Mime) -> str:
    """The id of the mail that this one's thread began with, as far as it says: `References` names the oldest first."""
    for name in ("References", "In-Reply-To"):
        found = _MESSAGE_ID.search(header(message, name))
        if found is not None:
            return found[1].encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be written
    return ""


def _date(message: Mime) -> datetime | None:
    try:
        return email.utils.parsedate_to_datetime(header(message, "Date"))
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def _text_of(part: Mime, reading: _Reading) -> _Text:
    """The text that a part, and what is inside of it, adds to the mail."""
    reading.parts += 1
    if reading.parts > MOST_PARTS:
        reading.note(f"only the first {MOST_PARTS} parts were read")
        return _Text("")
    kind = part.get_content_type()
    if kind == "message/rfc822":
        return _attached_message(part, reading)
    if not part.is_multipart():
        return _leaf(part, kind, reading)
    if kind == "multipart/encrypted":
        reading.opaque = True
        reading.note("an encrypted part was left alone")
        return _Text("")
    parts = [inner for inner in part.get_payload() if isinstance(inner, Mime)]
    if kind == "multipart/related" and parts:
        parts = [_root(part, parts)]
    texts = [_text_of(inner, reading) for inner in parts]
    return _better(texts) if kind == "multipart/alternative" else _joined(texts)


def _leaf(part: Mime, kind: str, reading: _Reading) -> _Text:
    name = str(part.get_filename() or "").lower()
    if kind == "application/ms-tnef" or name == "winmail.dat":
        reading.opaque = True
        reading.note("winmail.dat (Outlook's own format, TNEF) was left alone")
    elif kind in ("application/pkcs7-mime", "application/x-pkcs7-mime"):
        reading.opaque = True
        reading.note("an encrypted or opaquely signed part was left alone")
    elif (
        kind in ("text/plain", "text/html")
        and part.get_content_disposition() != "attachment"
        and not _named(part, name)
    ):
        payload = part.get_payload(decode=True)
        text = decode(payload if isinstance(payload, bytes) else b"", part.get_content_charset(failobj=""))
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        if kind == "text/html":
            return _Text(text, is_html=True)
        return _Text(_unflowed(text, part))
    elif (name or part.get_content_disposition() == "attachment") and kind not in _SIGNATURES:
        reading.attachments += 1
    return _Text("")


_SIGNATURES = ("application/pkcs7-signature", "application/x-pkcs7-signature", "application/pgp-signature")


def _named(part: Mime, name: str) -> bool:
    """A text part with a file name is an attachment, unless the sender's program says that it is to be shown."""
    return bool(name) and part.get_content_disposition() != "inline"


def _root(part: Mime, parts: list[Mime]) -> Mime:
    start = str(part.get_param("start") or "").strip("<>")
    for inner in parts:
        if start and str(inner.get("Content-ID", "")).strip("<> ") == start:
            return inner
    return parts[0]


# Ihr E-Mail-Programm unterstützt kein HTML.      Please view this message in an HTML capable mail program.
_STAND_IN = re.compile(
    r"(?:kein|unterstützt|aktivieren|ohne)\b.{0,40}\bhtml|html.{0,60}(?:anzeig|darstell|fähig|capable|enabled|required|support|viewer)"
    r"|(?:view|requires?|see|support).{0,60}\bhtml",
    re.IGNORECASE,
)


def _better(choices: list[_Text]) -> _Text:
    """The plain text of an alternative, unless it only stands in for the HTML."""
    plain = next((choice for choice in choices if not choice.is_html and choice.text.strip()), None)
    rich = next((choice for choice in reversed(choices) if choice.is_html and choice.text.strip()), None)
    if plain is None or rich is None:
        return plain or rich or _Text("")
    words, rich_words = len(plain.text.split()), len(visible_text(rich.text).text.split())
    stands_in = words < 60 and _STAND_IN.search(plain.text[:2000]) is not None
    return rich if (stands_in and rich_words) or rich_words > 3 * words + 20 else plain


def _joined(parts: list[_Text]) -> _Text:
    """Texts one below the other; as soon as one is HTML, all are."""
    parts = [part for part in parts if part.text.strip()]
    if len(parts) < 2:
        return parts[0] if parts else _Text("")
    if not any(part.is_html for part in parts):
        return _Text("\n".join(part.text for part in parts))
    return _Text("\n<br>\n".join(part.text if part.is_html else _as_html(part.text) for part in parts), is_html=True)


def _as_html(text: str) -> str:
    return "<div>" + html.escape(text, quote=False).replace("\n", "<br>\n") + "</div>"


def _attached_message(part: Mime, reading: _Reading) -> _Text:
    """A forwarded message, under the headings with which mail programs introduce one."""
    payload = part.get_payload()
    inner = payload[0] if isinstance(payload, list) and payload else None
    if not isinstance(inner, Mime):
        return _Text("")
    reading.note("an attached message was read as a forward")
    found = _text_of(inner, reading)
    text = visible_text(found.text).text if found.is_html else found.text
    head = "".join(_heading(inner, name) for name in ("From", "Date", "Subject", "To"))
    return _Text(f"\n---------- Forwarded message ----------\n{head}\n{text}") if text.strip() else _Text("")


def _heading(message: Mime, name: str) -> str:
    value = header(message, name)
    return f"{name}: {value}\n" if value else ""


_QUOTE_DEPTH = re.compile(r">*")


def _unflowed(text: str, part: Mime) -> str:
    """Undo format=flowed (RFC 3676): a line that ends in a space goes on in the next of the same quote depth."""
    if str(part.get_param("format") or "").lower() != "flowed":
        return text
    drop_space = str(part.get_param("delsp") or "").lower() == "yes"
    return "\n".join(_paragraphs(text, drop_space))


def _paragraphs(text: str, drop_space: bool) -> Iterator[str]:
    open_depth, parts = -1, list[str]()
    for line in text.split("\n"):
        match = _QUOTE_DEPTH.match(line)
        depth = match.end() if match else 0
        content = line[depth:].removeprefix(" ")
        if open_depth not in (-1, depth) or (parts and content == "-- "):
            yield "".join(parts)
            open_depth, parts = -1, []
        if not parts:
            parts.append(">" * depth + " " * bool(depth and content))
        flowed = content.endswith(" ") and content != "-- "
        parts.append(content[:-1] if flowed and drop_space else content)
        if flowed:
            open_depth = depth
            continue
        yield "".join(parts)
        open_depth, parts = -1, []
    if parts:
        yield "".join(parts)
