"""Finds the earlier messages in a mail, and decides which of them the client sends as the request itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mailtriage.cleaning_rules.attributions import attribution_at, has_verb, may_attribute, may_start
from mailtriage.cleaning_rules.closings import is_closing
from mailtriage.cleaning_rules.disclaimers import is_disclaimer
from mailtriage.cleaning_rules.greetings import is_salutation
from mailtriage.cleaning_rules.header_blocks import header_block_at, is_heading, next_text
from mailtriage.cleaning_rules.mail_lines import Line, paragraphs
from mailtriage.cleaning_rules.patterns import Mentions, Telling, any_of, mentioned, pattern
from mailtriage.cleaning_rules.signature_lines import is_signature_line

_DASHES = r"[-_=*~# ]{2,}+"
_ORIGINAL = pattern(
    _DASHES
    + any_of(
        # -----Ursprüngliche Nachricht-----      ----- Ursprünglicher Termin -----
        r"Urspr(?:ü|ue)ngliche[rs]? (?:Nachricht|E-?Mail|Mail|Termin)",
        # -------- Original-Nachricht --------      *----- Original Message -----*      -----Original Appointment-----
        r"Original[- ]?(?:Nachricht|Message|Mail|E-?Mail|Appointment|Termin)|Antwort[- ]Nachricht|Reply Message",
        # -------- Message d'origine --------      -----Mensaje original-----      -------- Oprindelig besked --------
        r"Message d'origine|Mensaje original|Messaggio originale|Oprindelig (?:meddelelse|besked)|Original besked"
        r"|Ursprungligt meddelande",
        r"Oorspronkelijk bericht|Mensagem original|Wiadomość oryginalna|Исходное сообщение|Alkuperäinen viesti",
    )
    + r"\s*:?\s*[-_=*~# ]{2,}$"
)
_FORWARDED = pattern(
    r"[-_=*~> ]*+"
    + any_of(
        # ---------- Forwarded message ---------      Begin forwarded message:      ----- Forwarded by Max Muster -----
        r"(?:Original )?Forwarded (?:message|mail)|Begin(?:ning of)? forwarded message|Forwarded by",
        # -------- Weitergeleitete Nachricht --------      Anfang der weitergeleiteten Nachricht:
        r"Weitergeleitete (?:Nachricht|E-?Mail|Mail)|Anfang der weitergeleiteten (?:Nachricht|E-?Mail)"
        r"|Weitergeleitet von",
        r"Message transféré|Messaggio inoltrato|Mensaje reenviado",
    )
    + r"(?: [^:]{1,80}?)?\s*(?::|[-_=*~]{2,})[-_=*~: ]*$"
)
_REPLY_MARK = pattern(
    # ##- Bitte geben Sie Ihre Antwort oberhalb dieser Zeile ein -##      --- Reply above this line ---
    r"[-#=*_ ]{2,}+[^-#=*_]{0,40}(?:oberhalb dieser (?:Zeile|Linie)|(?:reply|above) (?:above )?(?:this|the) line)"
)
# One of these is in every line that separates messages.
_SEPARATING = Telling(
    "original", "ursprüngliche", "urspruengliche", "message d'origine", "oprindelig", "ursprungligt", "oorspronkelijk",
    "oryginalna", "исходное", "alkuperäinen", "antwort nachricht", "antwort-nachricht", "reply message", "forwarded",
    "weitergeleitet", "transféré", "inoltrato", "reenviado", "dieser zeile", "dieser linie", "this line", "the line",
)  # fmt: skip
_DELIMITERS = frozenset({"--", "—", "__"})
_RULES = frozenset("-_=*~#─—–")

_ANSWERS_BELOW = pattern(
    # siehe meine Antworten unten im Text      Anmerkungen in rot      see my comments below
    r"(?:antwort(?:en)?|anmerkung(?:en)?|kommentare?|ergänzung(?:en)?|angaben|answers?|comments?|repl(?:y"
    r"|ies))\b.{0,50}"
    r"\b(?:im text|unten|in (?:rot|blau|grün|fett|red|blue|bold)|darunter|below|dazwischen)\b",
    # Ich antworte inline.      siehe unten in rot      direkt im Text      Unten habe ich die Angaben ergänzt.
    r"\binline\b|\b(?:unten|below)\b.{0,20}\bin (?:rot|blau|grün|red|blue|green)\b"
    r"|\b(?:unten|direkt) im (?:text|mail)|\b(?:unten|below)\b.{0,30}\b(?:ergänzt|beantwortet|eingefügt"
    r"|answered|added)\b",
)
_POINTS_BELOW = pattern(
    # siehe unten      s. u.      die unten stehende Anfrage      folgende Mail habe ich erhalten
    r"\b(?:siehe|s\.?)\s?(?:u\.|unten|nachstehend|untenstehend)|\b(?:unten|nach)\s?stehende|\bfolgende (?:e-?mail"
    r"|mail|nachricht|anfrage)",
    # z. K.      zur Kenntnis      FYI      anbei leite ich Ihnen die Anfrage weiter      Bitte um Bearbeitung
    r"\bz\.?\s?k\.|zur kenntnis|\bfyi\b|weiterleit|weitergeleitet|\bleite\b|forward|bitte (?:um )?(?:bearbeit"
    r"|erledig|übernahme|beantwort)",
    # nachfolgend      below
    r"\b(?:unten|nachfolgend|anbei|below)\b",
)
# Says so much of the text below that it stays even if the subject calls the mail no forward.
_HANDS_ON = pattern(
    # anbei leite ich Ihnen die Anfrage meiner Frau weiter      I am forwarding my wife's request
    r"\bleite (?:ich|wir)\b[^.!?]{0,100}\bweiter\b|\b(?:ich|wir) leiten?\b[^.!?]{0,100}\bweiter\b|\bforwarding\b",
    # folgende Mail habe ich bekommen      die weitergeleitete Anfrage      see the message below
    r"\b(?:folgende|nachfolgende|nachstehende|unten ?stehende|weitergeleitete)n? (?:e-?mail|mail|nachricht|anfrage)\b",
    # nochmals meine Mail vom 1. März, auf die ich keine Antwort bekam:      siehe meine Mail unten
    r"\bmeine (?:e-?mail|mail|nachricht|anfrage)\b[^.!?]{0,40}\bunten\b|\b(?:anbei|hier) [^.!?]{0,30}\bmeine (?:e-?mail"
    r"|mail|nachricht|anfrage)\b",
    r"\b(?:e-?mail|message|request) below\b|\bbelow (?:e-?mail|message|request)\b|\bfollowing (?:e-?mail|message)\b",
)
# One of these is in every line that does.
_HANDING = ("leite", "forwarding", "olgende", "stehende", "unten", "anbei", "hier ", "below", "following")
_WORD = re.compile(r"[^\W\d_]{2,}")
# > 10.000 EUR: `more than`, not a question such as `> 2. Steuer-ID`
_AMOUNT = re.compile(r"\d(?!\d?[.)]\s)")
# Wie lautet Ihre Adresse?      Guten Tag,      Ihre Frage war:      Sie baten um:
_SPEAKS_FULLY = pattern(
    r"[.?!,]$|\b(?:ihre?|sie|ihnen|your?|fragen?|fragten?|ask(?:ed)?|questions?|mails?|nachricht)\b"
)

ENOUGH_OWN_WORDS = 20  # with as many above a forward, the forwarded text is only context
ENOUGH_FORWARDED_WORDS = 4  # with as many in a forwarded message, the one below it is only context


@dataclass(frozen=True, slots=True)
class _Head:
    """The lines `start` to `stop` that introduce an earlier message.

    `strong`: everything below it is that message, quoted or not.
    """

    start: int
    stop: int
    rule: str
    forward: bool = False
    strong: bool = True


def cut_quotations(lines: Sequence[Line], mentions: Mentions, forwarded: bool) -> None:
    """Mark earlier messages (`quote`), and the headings of a forward whose text is kept (`forward_header`).

    `forwarded` says that the subject calls the mail a forward.
    """
    position, since = 0, 0  # `since`: where the words that stand above the next message begin
    enough = ENOUGH_OWN_WORDS
    separates, attributes = bool(mentions.of(_SEPARATING)), may_attribute(mentions)
    while position < len(lines):
        line = lines[position]
        if line.cut is not None:
            position += 1
            continue
        head = _head_at(lines, position, separates, attributes) if line.text and not line.unread else None
        if head is not None:
            position = since = _take(lines, head, since, forwarded, enough)
            enough = ENOUGH_FORWARDED_WORDS
        elif line.quoted:
            position = _cut_quoted(lines, position)
        elif line.indented and line.own and is_salutation(line.text) and _has_words(lines[:position]):
            position = _cut_quoted(lines, position, indented=True)  # a letter in <blockquote> below the client's words
        else:
            position += 1


def _has_words(lines: Sequence[Line]) -> bool:
    return any(line.own and not line.quoted and not is_salutation(line.text) for line in lines)


def newest_message(lines: Sequence[Line]) -> list[Line]:
    """The lines of the first quoted message, without what introduces it or an older one."""
    message: list[Line] = []
    position = 0
    while position < len(lines):
        line = lines[position]
        head = _head_at(lines, position) if line.text and line.cut and line.cut[0] == "quote" else None
        if head is not None and message:
            break
        if head is not None:
            position = head.stop
            continue
        if line.cut and line.cut[0] == "quote" and line.text:
            message.append(line)
        position += 1
    return message


def _head_at(lines: Sequence[Line], position: int, separates: bool = True, attributes: bool = True) -> _Head | None:
    """The head that starts here; `separates` and `attributes` say which kinds the mail may hold at all."""
    text = lines[position].text
    if len(text) > 400:
        return None
    if separates and (separator := _separator_at(lines, position)) is not None:
        return separator
    if (":" in text[:24] or text[0] in _RULES) and (stop := header_block_at(lines, position)) is not None:
        return _Head(position, stop, "header_block")
    if (
        (attributes or text[0].isdigit())
        and may_start(text)
        and (attribution := attribution_at(lines, position)) is not None
    ):
        container = lines[position].container
        marked = container is not None and container[0] == "attribution"
        return _Head(position, attribution[0], "attribution", strong=attribution[1] or marked)
    return None


def _separator_at(lines: Sequence[Line], position: int) -> _Head | None:
    text = lines[position].text
    for separator, rule in (
        (_FORWARDED, "forwarded_message"),
        (_ORIGINAL, "original_message"),
        (_REPLY_MARK, "reply_mark"),
    ):
        if separator.match(text):
            below = next_text(lines, position + 1)
            stop = header_block_at(lines, below, least=1) if below - position < 4 else None
            return _Head(position, stop or position + 1, rule, forward=separator is _FORWARDED)
    return None


def _take(lines: Sequence[Line], head: _Head, since: int, forwarded: bool, enough: int) -> int:
    """Decide about the message below a head; returns where to go on.

    `enough`: with as many words since the last head, a forward is only context.
    """
    below = next_text(lines, head.stop)
    quoted = below < len(lines) and (lines[below].quoted or lines[below].indented)
    above = [line for line in lines[since : head.start] if not line.quoted]
    own = [line for line in above if line.own]
    if head.forward or (forwarded and head.rule != "reply_mark"):
        is_request = _is_the_request(above, enough)
    else:
        is_request = enough == ENOUGH_OWN_WORDS and _hands_on(own)
    if is_request and (head.strong or quoted):
        _mark(lines, head.start, head.stop, ("forward_header", head.rule))
        if quoted:
            _unquote(lines, below)
        return head.stop
    if quoted:
        _mark(lines, head.start, below, ("quote", head.rule))
        return _cut_quoted(lines, below, indented=not lines[below].quoted)
    if lines[head.start].quoted or (head.strong and any(_ANSWERS_BELOW.search(line.text) for line in own)):
        _mark(lines, head.start, head.stop, ("quote", head.rule))  # the client's answers stand below
        return head.stop
    if not head.strong:
        return head.stop
    if head.rule == "attribution" and all(is_salutation(line.text) for line in own):
        _mark(lines, head.start, head.stop, ("quote", head.rule))  # nothing above: the client's words are below
        return head.stop
    _mark(lines, head.start, len(lines), ("quote", head.rule))
    return len(lines)


def _hands_on(own: Sequence[Line]) -> bool:
    """Whether the client says that he hands on the message below."""
    return any(mentioned(line.text.lower(), _HANDING) and _HANDS_ON.search(line.text) for line in own)


def _is_the_request(above: Sequence[Line], enough: int) -> bool:
    """Whether a forwarded message, and not what stands above it, is what the client wants to say."""
    own = _without_signature(above)
    words = sum(len(_WORD.findall(line.text)) for line in own)
    return words < enough or (enough == ENOUGH_OWN_WORDS and any(_POINTS_BELOW.search(line.text) for line in own))


def _without_signature(above: Sequence[Line]) -> list[Line]:
    """The lines above a forward that say something: signature, imprint and disclaimer may be longer than they are."""
    said: list[Line] = []
    for block in paragraphs(above):
        if is_disclaimer(block):
            continue
        for line in block:
            if is_closing(line.text) or line.text in _DELIMITERS:
                return said
            in_signature = line.container is not None and line.container[0] == "signature"
            if not (in_signature or is_salutation(line.text) or is_signature_line(line.text)):
                said.append(line)
    return said


def _mark(lines: Sequence[Line], start: int, stop: int, cut: tuple[str, str]) -> None:
    for line in lines[start:stop]:
        if line.cut is None and (line.text or line.depth):
            line.cut = cut


def _unquote(lines: Sequence[Line], position: int) -> None:
    """A forwarded text that is kept is quoted one level less."""
    while position < len(lines) and (lines[position].quoted or lines[position].indented or not lines[position].text):
        line = lines[position]
        line.container, line.indented = None, False
        line.depth = max(0, line.depth - 1)
        line.without_marks = line.depth == 0 and line.content >= 0
        position += 1


def _cut_quoted(lines: Sequence[Line], position: int, indented: bool = False) -> int:
    """Cut the quoted lines from here on; returns the first line after them."""
    if not indented and _are_own_marks(lines, position):
        while position < len(lines) and lines[position].quoted:
            position += 1
        return position
    while position < len(lines):
        line = lines[position]
        if line.quoted or (indented and line.indented):
            rule = line.container[1] if line.container and not line.depth else "quote_mark"
            line.cut = line.cut or ("quote", rule)
        elif line.text and not _is_wrapped(lines, position):
            break
        elif line.text:
            line.cut = ("quote", "quote_mark_wrapped")
        position += 1
    return position


def _are_own_marks(lines: Sequence[Line], position: int) -> bool:
    """Marks that the client set: bullets below a line with a colon, `>>> Angebot <<<`, `> 10.000 EUR`."""
    end = position
    while end < len(lines) and lines[end].quoted:
        end += 1
    block = lines[position:end]
    texts = [line.text for line in block if line.text]
    if not texts or any(line.container for line in block):
        return False
    if all("<<" in text for text in texts):
        return True
    before = lines[position - 1].text if position else ""
    if len(texts) < len(block) or len(block) > 8 or any(line.depth > 1 or len(line.text) > 80 for line in block):
        return False
    if not before and position > 1:  # a blank line may stand between a colon and bullets that are no sentences
        above = lines[position - 2].text
        if above.endswith(":") and not any(_SPEAKS_FULLY.search(text) for text in (above, *texts)):
            before = above
    if not before:
        return False
    if has_verb(before) or any(is_heading(text) for text in texts):
        return False
    return before.endswith(":") or (len(block) == 1 and _AMOUNT.match(texts[0]) is not None)


def _is_wrapped(lines: Sequence[Line], position: int) -> bool:
    """A remainder that a mail program wrapped out of a long quoted line, without a mark of its own."""
    before, after = lines[position - 1], position + 1
    if not before.depth or not before.text or after >= len(lines) or not lines[after].depth:
        return False
    return before.end - before.start >= 70 and lines[position].text[0].islower() and before.text[-1] not in ".!?:"
