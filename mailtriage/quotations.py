"""Finds the earlier messages in a mail: what mail clients quote, forward, and write above it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailtriage.mail_lines import Line

# -----Ursprüngliche Nachricht-----      -------- Original-Nachricht --------      *-------- Original Message --------*
_ORIGINAL = re.compile(
    r"[-_=*~# ]{2,}+(?:Urspr(?:ü|ue)ngliche[rs]? (?:Nachricht|E-?Mail|Mail|Termin)|Original[- ]?(?:Nachricht|Message|Mail"
    r"|E-?Mail|Appointment|Termin)|Originalnachricht|Antwort[- ]Nachricht|Reply Message|Message d'origine"
    r"|Mensaje original|Messaggio originale|Oprindelig meddelelse|Original besked|Ursprungligt meddelande"
    r"|Oorspronkelijk bericht|Mensagem original|Wiadomość oryginalna|Исходное сообщение"
    r"|Alkuperäinen viesti)\s*:?\s*[-_=*~# ]{2,}$",
    re.IGNORECASE,
)
# ---------- Forwarded message ---------      -------- Weitergeleitete Nachricht --------
# Anfang der weitergeleiteten Nachricht:      Begin forwarded message:
_FORWARDED = re.compile(
    r"[-_=*~> ]*+(?:(?:Original )?Forwarded (?:message|mail)|Weitergeleitete (?:Nachricht|E-?Mail|Mail)"
    r"|Anfang der weitergeleiteten (?:Nachricht|E-?Mail)|Begin(?:ning of)? forwarded message|Message transféré"
    r"|Messaggio inoltrato|Mensaje reenviado)(?: (?:by|von) [^:]{1,80})?\s*(?::|[-_=*~]{2,})[-_=*~: ]*$",
    re.IGNORECASE,
)
# ##- Bitte geben Sie Ihre Antwort oberhalb dieser Zeile ein -##      --- Reply above this line ---
_REPLY_MARK = re.compile(
    r"[-#=*_ ]{2,}+[^-#=*_]{0,40}(?:oberhalb dieser (?:Zeile|Linie)|(?:reply|above) (?:above )?(?:this|the) line)",
    re.IGNORECASE,
)

_FIELDS = {
    "from": "Von|From|De|Da|Van|Från|Fra|Od|Lähettäjä|От|Absender",
    "date": "Gesendet(?: am)?|Sent|Datum|Date|Envoyé(?: le)?|Inviato|Data|Verzonden|Skickat|Sendt|Enviado(?: el)?|Wysłano|Fecha",
    "to": "An|To|À|A|Aan|Till|Til|Para|Do|Empfänger",
    "cc": "Cc|Kopie(?: an)?|Bcc|Copia",
    "subject": "Betreff|Subject|Objet|Oggetto|Onderwerp|Ämne|Emne|Asunto|Assunto|Temat",
    "other": "Reply-To|Antwort(?:en)? an|Risposta|Wichtigkeit|Importance|Priorität|Priority|Anlagen?|Attachments?|Organi[sz]ation",
}
# *Von:* Max Muster <max@example.org>      Gesendet: Dienstag, 12. März 2024 10:11      De : Max
_FIELD = re.compile(
    r"[*|]{0,2}(?:"
    + "|".join(f"(?P<{field}>{names})" for field, names in _FIELDS.items())
    + r")\*{0,2}\s?:\*{0,2}(?:\s+|(?=[\w<\"])|$)",
    re.IGNORECASE,
)
_MAY_BE_FIELD = re.compile(r"[^:]{1,20}:")
_LOOKS_SENT = re.compile(
    r"@|\d{1,2}[:.]\d\d|\d{4}|\b(?:Jan|Feb|M(?:ä|a)r|Apr|Ma[iy]|Jun|Jul|Aug|Sep|O[kc]t|Nov|De[zc])", re.IGNORECASE
)

_WROTE = (
    r"schrieb(?:en)?|geschrieben|wrote|writes|a écrit|écrit|escribió|escreveu|ha scritto|schreef|geschreven|skrev|napisał(?:\(a\))?"
    r"|написал(?:\(а\))?|пише|kirjoitti|napsal(?:\(a\))?|写道|sent"
)
# Am 12.03.2024 um 10:11 schrieb Max Muster <max@example.org>:      On Tue, 12 Mar 2024 at 10:11, Max wrote:
# Am Dienstag, 12. März 2024 um 10:11:12 MEZ hat Max Muster <max@example.org> Folgendes geschrieben:
# Max Muster <max@example.org> schrieb am Di., 12. März 2024 um 10:11 Uhr:
_ATTRIBUTION = re.compile(
    rf"(?P<lead>.{{2,300}}?)(?<!\w)(?P<verb>{_WROTE})(?!\w)(?P<tail>[^\n]{{0,160}}?)\s*(?P<colon>[:：]|-{{2,}})?[\s*]*$",
    re.IGNORECASE,
)
_HAS_VERB = re.compile(rf"(?<!\w)(?:{_WROTE})(?!\w)", re.IGNORECASE)
_HAS_DATE = re.compile(
    r"\d{1,2}[./-]\s?\d{1,2}[./-]\s?\d{2,4}|\d{4}[-/年]\d{1,2}[-/月]\d{1,2}"
    r"|\d{1,2}(?:st|nd|rd|th)?[.,]?[- ](?:de )?[^\W\d_]{3,10}\.?,?(?: de)?[- ]\d{2,4}"
    r"|[^\W\d_]{3,10}\.? \d{1,2}(?:st|nd|rd|th)?,? (?:at )?\d{2,4}|\d{1,2}\.? [^\W\d_]{3,9}\.?(?: kl\.| om)? \d\d",
    re.IGNORECASE,
)
_HAS_TIME = re.compile(r"\b\d{1,2}[:.h]\d\d(?::\d\d)?\b(?!\.\d)")
_HAS_ADDRESS = re.compile(r"[^\s<>@]{1,64}@[^\s<>@]{1,200}")
# Am 12.03.2024 schrieb ich Ihnen bereits      Am 3. März um 10:15 Uhr schrieb mir Ihr Kollege Folgendes:
_OWN_REPORT = re.compile(
    r"(?:schrieb(?:en)?|wrote|sent)\s+(?:ich|wir|mir|uns|sie|er|man|ihnen|du|dir|ihre?[rmn]?|meine?|unsere?|to|me|us|you|the|that)\b"
    r"|\b(?:ich|wir|I|we|he|she|they|your|my|our|ihre?r?|meine?|unsere?)\b[^<@]{0,60}?\b(?:schrieb(?:en)?|geschrieben|wrote|sent)\b",
    re.IGNORECASE,
)
# 2024-03-12 10:11 GMT+01:00 Max Muster <max@example.org>:
_BARE_ATTRIBUTION = re.compile(
    r"\d{4}[-/]\d{1,2}[-/]\d{1,2}(?: \d{1,2}:\d\d(?: (?:GMT|UTC)?[-+]?[\d:]{0,6})?)? [^\W\d][^<>@]{1,80}(?:<\s?[^<>\s]+@[^<>\s]+\s?>?)?\s*:?$"
)
_STARTS_ATTRIBUTION = re.compile(
    r"[-*_ ]{0,6}(?:Am|On|Le|Op|Il|El|Em|W dniu|Dnia|Den|At|Dne|在|\d{1,4}[-/. ]|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)|[^\W\d]+, \d)"
)
# Max Muster <max@example.org> schrieb am      "Max" <max@example.org
_NAME_AND_ADDRESS = re.compile(r"[\"'*]?[^\W\d_][^<>@]{0,80}<\s?[^<>@\s]{1,64}@|[^\s<>@]{1,64}@\S+ ")
_ENDS_SENTENCE = re.compile(r"[^\W\d_]{5,}[.!?]$")

# siehe meine Antworten unten im Text      Anmerkungen in rot      see my answers inline
_INLINE_HINT = re.compile(
    r"(?:antwort(?:en)?|anmerkung(?:en)?|kommentare?|ergänzung(?:en)?|angaben|answers?|comments?|repl(?:y|ies))\b.{0,50}"
    r"\b(?:im text|unten|inline|in (?:rot|blau|grün|fett|red|blue)|darunter|below|weiter unten|zwischen)\b|\binline\b"
    r"|\b(?:unten|direkt|below) (?:im|in the) (?:text|mail|original)|\b(?:unten|below)\b.{0,30}\b(?:ergänzt|beantwortet|eingefügt|answered|added)\b",
    re.IGNORECASE,
)
# siehe unten      z.K.      FYI      bitte um Bearbeitung      leite ich Ihnen weiter
_POINTS_BELOW = re.compile(
    r"\b(?:siehe|s\.?)\s?(?:u\.|unten|nachstehend|untenstehend)|\b(?:unten|nach)stehende|\bfolgende (?:mail|nachricht|anfrage)"
    r"|\bz\.?\s?k\.|zur kenntnis|\bfyi\b|weiterleit|weitergeleitet|\bleite\b|\bbelow\b|forward|bitte (?:um )?(?:bearbeit|erledig|übernahme|beantwort)"
    r"|(?:unten|nachfolgend|anbei)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]{2,}")
_RULE = re.compile(r"[-_=*~#─—–]{3,}$|^[-_]{2}$|^—$")

ENOUGH_OWN_WORDS = 20  # with more than these above a forward, the forwarded text is context


@dataclass(frozen=True, slots=True)
class _Head:
    """The lines `start` to `stop` that introduce an earlier message."""

    start: int
    stop: int
    rule: str
    forward: bool = False
    strong: bool = True  # enough to cut everything below it, quoted or not


def cut_quotations(lines: Sequence[Line], forwarded: bool) -> None:
    """Mark earlier messages (`quote`) and the headers of a forward whose text is kept (`forward_header`).

    `forwarded` says that the subject calls the mail a forward.
    """
    position, since = 0, 0  # `since`: where the words that may stand above a forward begin
    while position < len(lines):
        line = lines[position]
        head = _head_at(lines, position) if line.text and line.cut is None else None
        if head is not None:
            position = _take(lines, head, since, forwarded)
            since = position
        elif line.quoted and line.cut is None:
            position = _cut_quoted(lines, position)
        else:
            position += 1


def _take(lines: Sequence[Line], head: _Head, since: int, forwarded: bool) -> int:
    """Decide about the message below a head; returns where to go on."""
    below = _next_text(lines, head.stop)
    quoted = below < len(lines) and (lines[below].quoted or lines[below].indented)
    own = [line for line in lines[since : head.start] if line.own and not line.quoted]
    is_forward = head.forward or (forwarded and head.rule == "header_block")
    if is_forward and _forward_is_request(own):
        _mark(lines, head.start, head.stop, ("forward_header", head.rule))
        if quoted:
            _unquote(lines, below)
        return head.stop
    if quoted:
        _mark(lines, head.start, below, ("quote", head.rule))
        return _cut_quoted(lines, below, indented=lines[below].indented and not lines[below].quoted)
    if lines[head.start].quoted:  # the answer stands right below a quoted header
        _mark(lines, head.start, head.stop, ("quote", head.rule))
        return head.stop
    if not head.strong:
        return head.stop
    if any(_INLINE_HINT.search(line.text) for line in own):
        _mark(lines, head.start, head.stop, ("quote", head.rule))
        return head.stop
    _mark(lines, head.start, len(lines), ("quote", head.rule))
    return len(lines)


def _forward_is_request(own: Sequence[Line]) -> bool:
    words = sum(len(_WORD.findall(line.text)) for line in own)
    return words < ENOUGH_OWN_WORDS or any(_POINTS_BELOW.search(line.text) for line in own)


def _mark(lines: Sequence[Line], start: int, stop: int, cut: tuple[str, str]) -> None:
    for line in lines[start:stop]:
        if line.cut is None and (line.text or line.depth):
            line.cut = cut


def _unquote(lines: Sequence[Line], position: int) -> None:
    """A forwarded text that is kept is no longer quoted, or one level less."""
    while position < len(lines) and (lines[position].quoted or lines[position].indented or not lines[position].text):
        line = lines[position]
        line.container, line.indented = None, False
        line.depth = max(0, line.depth - 1)
        position += 1


def _cut_quoted(lines: Sequence[Line], position: int, indented: bool = False) -> int:
    """Cut the quoted lines from here on; returns the first line after them."""
    if not indented and _is_no_quote(lines, position):
        while position < len(lines) and lines[position].quoted:
            position += 1
        return position
    while position < len(lines):
        line = lines[position]
        if line.quoted or (indented and line.indented):
            rule = line.container[1] if line.container and not line.depth else "quote_mark"
            line.cut = ("quote", rule) if line.cut is None else line.cut
        elif line.text and not _is_wrapped_quote(lines, position):
            break
        elif line.text:
            line.cut = ("quote", "quote_mark_wrapped")
        position += 1
    return position


def _is_no_quote(lines: Sequence[Line], position: int) -> bool:
    """Marks that the client set: bullets below a line with a colon, `>>> Angebot <<<`, `> 10.000 EUR`."""
    end = position
    while end < len(lines) and lines[end].quoted:
        end += 1
    block = lines[position:end]
    if any(line.container for line in block):
        return False
    if all("<<" in line.text or not line.text for line in block):
        return True
    before = lines[position - 1].text if position else ""
    if not before or len(block) > 8 or any(line.depth > 1 or len(line.text) > 80 or not line.text for line in block):
        return False
    if _HAS_VERB.search(before) or any(_FIELD.match(line.text) for line in block):
        return False
    return before.endswith(":") or (len(block) == 1 and block[0].text[:1].isdigit())


def _is_wrapped_quote(lines: Sequence[Line], position: int) -> bool:
    """A short remainder that a mail program wrapped out of a quoted line: the lines around it are quoted."""
    before, after = lines[position - 1], position + 1
    if not before.depth or not before.text or after >= len(lines) or not lines[after].depth or not lines[after].text:
        return False
    return before.end - before.start > 60 and len(lines[position].text) < 30 and lines[position].text[:1].islower()


def _next_text(lines: Sequence[Line], position: int) -> int:
    while position < len(lines) and not lines[position].text:
        position += 1
    return position


def _head_at(lines: Sequence[Line], position: int) -> _Head | None:
    text = lines[position].text
    if len(text) > 400:
        return None
    first = text[0]
    if first in "-_=*~#> AWBM" or first in "awbmO":
        head = _separator_at(lines, position)
        if head is not None:
            return head
    if ":" in text[:22] or first in "-_=*─—–":
        head = _header_block_at(lines, position)
        if head is not None:
            return head
    return _attribution_at(lines, position)


def _separator_at(lines: Sequence[Line], position: int) -> _Head | None:
    text = lines[position].text
    for pattern, rule, forward in (
        (_FORWARDED, "forwarded_message", True),
        (_ORIGINAL, "original_message", False),
        (_REPLY_MARK, "reply_mark", False),
    ):
        if pattern.match(text):
            below = _next_text(lines, position + 1)
            block = _header_block_at(lines, below, least=1) if below - position < 4 else None
            return _Head(position, block.stop if block else position + 1, rule, forward)
    return None


def _header_block_at(lines: Sequence[Line], position: int, least: int = 3) -> _Head | None:
    """Von, Gesendet, An, Betreff in some order, each perhaps wrapped, with a rule above or not."""
    start = position
    if position < len(lines) and _RULE.match(lines[position].text):
        position = _next_text(lines, position + 1)
        if position - start > 3:
            return None
    found: dict[str, str] = {}
    last, blank = position, 0
    index = position
    while index < len(lines) and index - position < 40:
        text = lines[index].text
        field = _FIELD.match(text) if text and _MAY_BE_FIELD.match(text) else None
        if field is not None and field.lastgroup is not None and blank < 2:
            found[field.lastgroup] = text[field.end() :]
            last, blank = index + 1, 0
        elif not text:
            blank += 1
            if blank > 1 or not found or (blank and len(found) >= 4):
                break
        elif not found or blank or not _continues(lines[index - 1].text, text):
            break
        else:
            last = index + 1
        index += 1
    if not _is_header_block(found, least):
        return None
    return _Head(start, last, "header_block")


def _continues(before: str, text: str) -> bool:
    """Whether a header field goes on in this line: the rest of an address list or of a long subject."""
    return (
        "@" in text
        or before.endswith((",", ";", "<"))
        or (len(before) > 55 and len(text) < 60)
        or len(text.split()) <= 3
    )


def _is_header_block(found: dict[str, str], least: int) -> bool:
    main = {"from", "date", "to", "subject"} & found.keys()
    if least == 1:
        return bool(main)
    if "from" not in main or len(main) < least:
        return False
    return any(_LOOKS_SENT.search(found[field]) for field in main - {"subject"})


def _attribution_at(lines: Sequence[Line], position: int) -> _Head | None:
    """`Am ... schrieb ...:`, perhaps wrapped over up to five lines."""
    line = lines[position]
    if not (_STARTS_ATTRIBUTION.match(line.text) or _NAME_AND_ADDRESS.match(line.text) or _ends_attribution(line.text)):
        return None
    joined, used = "", 0
    for index in range(position, min(position + 7, len(lines))):
        text = lines[index].text
        if not text:
            # Some One\n\n<\nmailto:some.one@example.org\n> wrote:
            if joined and index + 1 < len(lines) and lines[index + 1].text == "<" and _HAS_TIME.search(joined):
                continue
            break
        if used == 5 or (
            joined and lines[index].depth != line.depth and not (text == "wrote:" or text.endswith(("wrote:", ":")))
        ):
            break
        joined = f"{joined} {text}" if joined else text
        used += 1
        if len(joined) > 400:
            break
        strong = _attribution_strength(joined)
        if strong is None and _ENDS_SENTENCE.search(text):
            break
        if strong is not None:
            stop = index + 1
            # Am 21.04.2016 17:48 schrieb "Max" <max@example.org\n>:
            if (
                not joined.endswith((":", "：", "-"))
                and stop < len(lines)
                and lines[stop].text in (">:", ":", "> :", ">")
            ):
                stop += 1
            in_element = line.container is not None and line.container[0] == "attribution"
            return _Head(position, stop, "attribution", strong=strong or in_element)
    return None


def _ends_attribution(text: str) -> bool:
    return text.endswith((":", "：", "--")) and _HAS_VERB.search(text) is not None


def _attribution_strength(text: str) -> bool | None:
    """`True`: cuts what is below it. `False`: only together with quoted lines below. `None`: no attribution."""
    if _BARE_ATTRIBUTION.match(text):
        return _HAS_TIME.search(text) is not None or "@" in text
    match = _ATTRIBUTION.match(text)
    if match is None or not (match["colon"] or match["tail"] == ""):
        return None
    if match["verb"].lower() == "sent" and not ("@" in text and match["colon"]):
        return None
    dated = _HAS_DATE.search(text) is not None
    timed = _HAS_TIME.search(text) is not None
    address = _HAS_ADDRESS.search(text) is not None
    if not match["colon"]:
        return True if address and dated and timed else None
    if _OWN_REPORT.search(text):
        return (dated and timed) if address else None
    if ":" in match["tail"] and not (address or timed):
        return None
    if not (dated or timed or address):
        return None
    return address or (dated and timed)
