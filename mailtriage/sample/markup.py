"""A letter as the HTML body of a mail, as Outlook, Gmail, Apple Mail, GMX, Thunderbird and web forms write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from importlib.resources import files

from mailtriage.sample.correspondence import HOUSE
from mailtriage.sample.dice import Dice, Weighted
from mailtriage.sample.letter import Earlier, Letter
from mailtriage.sample.plain import own_blocks
from mailtriage.sample.quoting import FORWARDS, QUOTES, Style, named

Dialect = Callable[[Letter, Dice, str], str]

ENTITY_SHARE = 0.3
PIXEL_SHARE = 0.1
_ENTITIES = str.maketrans(
    {
        "ä": "&auml;",
        "ö": "&ouml;",
        "ü": "&uuml;",
        "ß": "&szlig;",
        "Ä": "&Auml;",
        "Ö": "&Ouml;",
        "Ü": "&Uuml;",
        "€": "&euro;",
        "·": "&middot;",
    }
)
_META = '<meta http-equiv="Content-Type" content="text/html; charset=utf-8">'
_GMAIL_QUOTE = "margin:0px 0px 0px 0.8ex;border-left:1px solid rgb(204,204,204);padding-left:1ex"
_GMX_QUOTE = (
    "margin: 10px 5px 5px 10px; padding: 10px 0 10px 10px; border-left: 2px solid #C3D9E5; word-wrap: break-word; "
    "-webkit-nbsp-mode: space; -webkit-line-break: after-white-space;"
)


def html_body(letter: Letter, dice: Dice, language: str) -> str:
    """The body in the dialect of one mail program."""
    body = _DIALECTS.draw(dice)(letter, dice, language)
    return body.translate(_ENTITIES) if dice.chance(ENTITY_SHARE) else body


@cache
def _layout(name: str) -> str:
    return (files(__package__) / "layouts" / name).read_text(encoding="utf-8").rstrip("\n")


def _text(text: str, line_break: str = "<br>") -> str:
    return escape(text, quote=False).replace("\n", line_break)


def _written(letter: Letter) -> list[str]:
    """What the writer typed, without the signature."""
    parts = (letter.greeting, *letter.paragraphs, "\n".join(letter.closing), letter.postscript)
    return [part for part in parts if part]


def _added(letter: Letter) -> list[str]:
    """What mail program and firm add below the signature."""
    return [part for part in (letter.footer, *letter.legal) if part]


def _everything(letter: Letter) -> list[str]:
    return [block for block in (*own_blocks(letter), *_added(letter)) if block]


def _quoted(letter: Letter) -> list[Earlier]:
    return [*letter.forwarded, *letter.earlier]


def _pixel(dice: Dice) -> str:
    if not dice.chance(PIXEL_SHARE):
        return ""
    source = f"https://t.newsmail.example/o/{dice.digits(12)}.gif"
    return f'<img src="{source}" width="1" height="1" alt="" style="display:none;border:0">'


def _message(mail: Earlier) -> str:
    return "".join(f"<div>{_text(paragraph)}</div><br>" for paragraph in mail.paragraphs)


def _nested(mails: Sequence[Earlier], wrap: Callable[[Earlier, str], str]) -> str:
    """Quotes within quotes: each message holds the one that it answered."""
    quote = ""
    for mail in reversed(mails):
        quote = wrap(mail, _message(mail) + quote)
    return quote


def _header(style: Style, mail: Earlier, line_break: str = "<br>") -> str:
    return line_break.join(_text(line) for line in style.header(mail) if line)


def _outlook(letter: Letter, dice: Dice, language: str) -> str:
    empty = '<p class="MsoNormal"><o:p>&nbsp;</o:p></p>'
    parts = []
    for block in _everything(letter):
        for line in block.split("\n"):
            style = "" if dice.chance(0.7) else ' style="mso-fareast-language:DE"'
            parts.append(f'<p class="MsoNormal"><span{style}>{_text(line) or "&nbsp;"}<o:p></o:p></span></p>')
        parts.append(empty)
    german = language == "de" or dice.chance(0.3)
    for mail in _quoted(letter):
        parts.append(_outlook_header(mail, german) + empty)
        parts += [f'<p class="MsoNormal">{_text(paragraph)}<o:p></o:p></p>{empty}' for paragraph in mail.paragraphs]
    joint = dice.pick(("", "\n", "\r\n"))
    body = f'<div class="WordSection1">{joint.join(parts)}</div>{_pixel(dice)}'
    style = 'link="#0563C1" vlink="#954F72" style="word-wrap:break-word"'
    return f'{_layout("outlook_head.html")}<body lang="DE" {style}>{body}</body></html>'


def _outlook_header(mail: Earlier, german: bool) -> str:
    labels = ("Von", "Gesendet", "An", "Betreff") if german else ("From", "Sent", "To", "Subject")
    values = (f"{mail.name} <{mail.address}>", f"{mail.sent_at:%d.%m.%Y %H:%M}", mail.to, mail.subject)
    lines = "<br>".join(f"<b>{label}:</b> {_text(value)}" for label, value in zip(labels, values, strict=True))
    border = "border:none;border-top:solid #E1E1E1 1.0pt;padding:3.0pt 0cm 0cm 0cm"
    return f'<div><div style="{border}"><p class="MsoNormal"><span lang="DE">{lines}<o:p></o:p></span></p></div></div>'


def _gmail(letter: Letter, dice: Dice, language: str) -> str:
    tag = "div" if dice.chance(0.8) else "p"
    own = "<div><br></div>".join(f"<{tag}>{_text(block)}</{tag}>" for block in _written(letter))
    if letter.signature:
        card = _text("\n".join(letter.signature))
        dashes = '<span class="gmail_signature_prefix">-- </span><br>' if letter.dashes else ""
        mark = 'class="gmail_signature" data-smartmail="gmail_signature"'
        own += f'<br clear="all"><div>{dashes}<div dir="ltr" {mark}>{card}</div></div>'
    own += "".join(f"<br><div>{_text(text)}</div>" for text in _added(letter))

    def wrap(mail: Earlier, inner: str) -> str:
        attribution = f'<div dir="ltr" class="gmail_attr">{_header(answer, mail, joint)}<br></div>'
        block = f'<blockquote class="gmail_quote" style="{_GMAIL_QUOTE}">{inner}</blockquote>'
        return f'<br><div class="gmail_quote">{attribution}{block}</div>'

    name, joint = ("gmail", "") if language == "de" else ("gmail_en", " ")
    answer = named(QUOTES[language], name)
    passing_on = named(FORWARDS[language], "gmail_forward")
    quote = _nested(letter.earlier, wrap)
    for mail in letter.forwarded:
        attribution = f'<div dir="ltr" class="gmail_attr">{_header(passing_on, mail)}</div>'
        quote = f'<br><br><div class="gmail_quote">{attribution}<br><br>{_message(mail)}</div>'
    return f'<div dir="ltr">{own}</div>{quote}{_pixel(dice)}'


def _apple(letter: Letter, dice: Dice, language: str) -> str:
    own = "".join(f"<div>{_text(block)}</div><div><br></div>" for block in _everything(letter))
    answer = named(QUOTES[language], "apple" if language == "de" else "apple_en")
    passing_on = named(FORWARDS[language], "apple_forward" if language == "de" else "apple_forward_en")

    def wrap(mail: Earlier, inner: str) -> str:
        header = _header(passing_on if letter.forwarded else answer, mail)
        cite = '<blockquote type="cite"><div dir="ltr">'
        return f"<br>{cite}{header}<br><br></div></blockquote>{cite}{inner}</div></blockquote>"

    quote = _nested(_quoted(letter), wrap)
    style = "overflow-wrap: break-word; -webkit-nbsp-mode: space; line-break: after-white-space;"
    body = 'dir="auto"' if dice.chance(0.5) else f'style="{style}"'
    return f"<html><head>{_META}</head><body {body}>{own}{quote}{_pixel(dice)}</body></html>"


def _gmx(letter: Letter, dice: Dice, language: str) -> str:
    own = "\n<div>&nbsp;</div>\n".join(f"<div>{_text(block)}</div>" for block in _everything(letter))

    def wrap(mail: Earlier, inner: str) -> str:
        pairs = (line.split(":", 1) for line in named(QUOTES["de"], "gmx").header(mail) if line)
        header = "<br/>\n".join(f"<b>{label}:</b>{_text(value)}" for label, value in pairs)
        head = f'<div style="margin: 0 0 10px 0;">{header}</div>'
        return f'<div name="quote" style="{_GMX_QUOTE}">\n{head}\n<div name="quoted-content">{inner}</div></div>'

    quote = _nested(_quoted(letter), wrap)
    font = "font-family: Verdana;font-size: 12.0px;"
    return f'<html><head></head><body><div style="{font}">{own}\n<div>&nbsp;\n{quote}</div></div></body></html>'


def _thunderbird(letter: Letter, dice: Dice, language: str) -> str:
    own = "".join(f"<p>{_text(block)}</p>\n" for block in _written(letter))
    if letter.signature:
        dashes = "-- <br>" if letter.dashes else ""
        own += f'<div class="moz-signature">{dashes}{_text(chr(10).join(letter.signature))}</div>\n'
    own += "".join(f"<p>{_text(text)}</p>" for text in _added(letter))

    def wrap(mail: Earlier, inner: str) -> str:
        when, who = f"{mail.sent_at:%d.%m.%Y} um {mail.sent_at:%H:%M}", _text(mail.name)
        header = f"Am {when} schrieb {who}:" if language == "de" else f"On {mail.sent_at:%d/%m/%Y %H:%M}, {who} wrote:"
        cite = f'type="cite" cite="mid:{dice.digits(9)}@{mail.address.split("@", 1)[1]}"'
        return f'<div class="moz-cite-prefix">{header}<br></div><blockquote {cite}>{inner}</blockquote>'

    quote = _nested(letter.earlier, wrap) + "".join(_thunderbird_forward(mail) for mail in letter.forwarded)
    return f"<!DOCTYPE html>\n<html><head>\n{_META}\n</head>\n<body>\n{own}{quote}\n</body>\n</html>"


def _thunderbird_forward(mail: Earlier) -> str:
    when = f"{mail.sent_at:%d.%m.%Y %H:%M}"
    cells = (("Betreff", mail.subject), ("Datum", when), ("Von", f"{mail.name} <{mail.address}>"), ("An", mail.to))
    label = '<th valign="BASELINE" align="RIGHT" nowrap="nowrap">'
    rows = "".join(f"<tr>{label}{name}: </th><td>{_text(value)}</td></tr>" for name, value in cells)
    mark = 'class="moz-email-headers-table" cellspacing="0" cellpadding="0" border="0"'
    title = "-------- Weitergeleitete Nachricht --------"
    table = f"<table {mark}><tbody>{rows}</tbody></table>"
    return f'<div class="moz-forward-container"><br><br>{title}{table}<br><br>{_message(mail)}</div>'


def _web_form(letter: Letter, dice: Dice, language: str) -> str:
    """What the house's contact form sends: the client's words in one cell of nested tables."""
    german = language == "de"
    labels = (
        ("Name", "Kundennummer", "Betreff", "Nachricht") if german else ("Name", "Client no.", "Subject", "Message")
    )
    title = "Neue Nachricht über das Kontaktformular" if german else "New message from the contact form"
    name = letter.closing[-1] if letter.closing else "-"
    values = (name, dice.digits(8), letter.subject or "-", "\n\n".join(_everything(letter)))
    rows = "".join(
        f'<tr><td class="label">{label}</td><td class="value">{_text(value, "<br />")}</td></tr>'
        for label, value in zip(labels, values, strict=True)
    )
    leave = f'<a href="https://www.kiebitz-invest.example/abmelden">{"Abmelden" if german else "Unsubscribe"}</a>'
    table = 'width="600" cellpadding="0" cellspacing="0" bgcolor="#ffffff"'
    quoted = "".join(f"<blockquote>{_message(mail)}</blockquote>" for mail in _quoted(letter))
    return (
        f'<!DOCTYPE html><html lang="{language}"><head><meta charset="utf-8"><title>{title}</title>'
        f'{_layout("form_style.html")}</head><body><table class="outer" role="presentation"><tr><td align="center">'
        f'<table class="card" {table}><tr><td style="padding:16px 12px;font-weight:bold">{title}</td></tr>'
        f'<tr><td><table width="100%">{rows}</table></td></tr><tr><td style="font-size:11px">&copy; {HOUSE} SE'
        f" &nbsp;|&nbsp; {leave}</td></tr></table></td></tr></table>{quoted}{_pixel(dice)}</body></html>"
    )


def _bare(letter: Letter, dice: Dice, language: str) -> str:
    """HTML of an app that knows line breaks and fonts only."""
    opening, closing = dice.pick(
        (
            ('<font face="Arial" size="2">', "</font>"),
            ('<span style="font-family:Helvetica,Arial;font-size:14px;color:#222222">', "</span>"),
            ("<div>", "</div>"),
        )
    )
    own = _text("\n\n".join(_everything(letter)), dice.pick(("<br>", "<br/>", "<br />\n")))
    if dice.chance(0.3):
        own = own.replace(". ", ".&nbsp; ")
    style = named(QUOTES[language], "outlook" if language == "de" else "outlook_en")
    quoted = "".join(f"<hr>{_header(style, mail)}<br><br>{_message(mail)}" for mail in _quoted(letter))
    return f"{opening}{own}{closing}{quoted}"


_DIALECTS: Weighted[Dialect] = Weighted(
    (_outlook, _gmail, _apple, _gmx, _thunderbird, _web_form, _bare), (24, 24, 16, 12, 8, 6, 10)
)
