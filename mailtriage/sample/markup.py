"""A letter as the HTML body of a mail, in the dialects of Outlook, Gmail, Apple Mail, GMX, Thunderbird and web forms."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from mailtriage.sample.correspondence import HOUSE
from mailtriage.sample.dice import Dice, Weighted
from mailtriage.sample.letter import Earlier, Letter
from mailtriage.sample.plain import own_blocks
from mailtriage.sample.quoting import FORWARDS, QUOTES

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
_OUTLOOK_HEAD = """<html xmlns:v="urn:schemas-microsoft-com:vml" xmlns:o="urn:schemas-microsoft-com:office:office" xmlns:w="urn:schemas-microsoft-com:office:word" xmlns="http://www.w3.org/TR/REC-html40"><head><meta http-equiv="Content-Type" content="text/html; charset=utf-8"><meta name="Generator" content="Microsoft Word 15 (filtered medium)"><!--[if !mso]><style>v\\:* {behavior:url(#default#VML);}
o\\:* {behavior:url(#default#VML);}
</style><![endif]--><style><!--
/* Font Definitions */
@font-face
	{font-family:"Cambria Math";
	panose-1:2 4 5 3 5 4 6 3 2 4;}
@font-face
	{font-family:Calibri;
	panose-1:2 15 5 2 2 2 4 3 2 4;}
/* Style Definitions */
p.MsoNormal, li.MsoNormal, div.MsoNormal
	{margin:0cm;
	font-size:11.0pt;
	font-family:"Calibri",sans-serif;
	mso-fareast-language:EN-US;}
a:link, span.MsoHyperlink
	{mso-style-priority:99;
	color:#0563C1;
	text-decoration:underline;}
.MsoChpDefault
	{mso-style-type:export-only;}
@page WordSection1
	{size:612.0pt 792.0pt;
	margin:70.85pt 70.85pt 2.0cm 70.85pt;}
div.WordSection1
	{page:WordSection1;}
--></style></head>"""
_FORM_STYLE = """<style type="text/css">body{margin:0;padding:0;background:#f4f6f8;font-family:Arial,Helvetica,sans-serif}
table.outer{width:100%;border-collapse:collapse} td.label{color:#667788;font-size:12px;padding:4px 12px;width:140px;vertical-align:top}
td.value{font-size:14px;color:#1a1a1a;padding:4px 12px} @media only screen and (max-width:600px){.card{width:100%!important}}</style>"""


def html_body(letter: Letter, dice: Dice, language: str) -> str:
    """The body in the dialect of one mail program."""
    body = _DIALECTS.draw(dice)(letter, dice, language)
    if dice.chance(0.3):
        body = body.translate(_ENTITIES)
    return body


def _text(text: str, line_break: str = "<br>") -> str:
    return escape(text, quote=False).replace("\n", line_break)


def _blocks(letter: Letter, last: bool = True) -> list[str]:
    """Own words, footer and firm's small print, in reading order."""
    small_print = letter.legal if not letter.legal_last or last else []
    return [block for block in (*own_blocks(letter), letter.footer, *small_print) if block]


def _pixel(dice: Dice) -> str:
    if not dice.chance(0.1):
        return ""
    token = dice.digits(12)
    return f'<img src="https://t.newsmail.example/o/{token}.gif" width="1" height="1" alt="" style="display:none;border:0">'


def _outlook(letter: Letter, dice: Dice, language: str) -> str:
    empty = '<p class="MsoNormal"><o:p>&nbsp;</o:p></p>'
    parts = []
    for block in _blocks(letter):
        for line in block.split("\n"):
            style = "" if dice.chance(0.7) else ' style="mso-fareast-language:DE"'
            parts.append(f'<p class="MsoNormal"><span{style}>{_text(line) or "&nbsp;"}<o:p></o:p></span></p>')
        parts.append(empty)
    for mail in (*letter.forwarded, *letter.earlier):
        labels = (
            ("Von", "Gesendet", "An", "Betreff")
            if language == "de" or dice.chance(0.3)
            else ("From", "Sent", "To", "Subject")
        )
        values = (f"{mail.name} &lt;{mail.address}&gt;", f"{mail.sent_at:%d.%m.%Y %H:%M}", mail.to, _text(mail.subject))
        header = "<br>".join(f"<b>{label}:</b> {value}" for label, value in zip(labels, values, strict=True))
        parts.append(
            '<div><div style="border:none;border-top:solid #E1E1E1 1.0pt;padding:3.0pt 0cm 0cm 0cm"><p class="MsoNormal">'
            f'<span lang="DE">{header}<o:p></o:p></span></p></div></div>{empty}'
        )
        parts += [f'<p class="MsoNormal">{_text(paragraph)}<o:p></o:p></p>{empty}' for paragraph in mail.paragraphs]
    joint = dice.pick(("", "\n", "\r\n"))
    return (
        f'{_OUTLOOK_HEAD}<body lang="DE" link="#0563C1" vlink="#954F72" style="word-wrap:break-word"><div class="WordSection1">'
        f"{joint.join(parts)}</div>{_pixel(dice)}</body></html>"
    )


def _gmail(letter: Letter, dice: Dice, language: str) -> str:
    pieces = []
    for block in [letter.greeting, *letter.paragraphs, "\n".join(letter.closing), letter.postscript]:
        if block:
            pieces.append(f"<div>{_text(block)}</div>" if dice.chance(0.8) else f"<p>{_text(block)}</p>")
    own = "<div><br></div>".join(pieces)
    if letter.signature:
        card = _text("\n".join(letter.signature))
        dashes = '<span class="gmail_signature_prefix">-- </span><br>' if letter.dashes else ""
        own += f'<br clear="all"><div>{dashes}<div dir="ltr" class="gmail_signature" data-smartmail="gmail_signature">{card}</div></div>'
    own += "".join(f"<br><div>{_text(text)}</div>" for text in (letter.footer, *letter.legal) if text)
    return f'<div dir="ltr">{own}</div>{_gmail_quote(letter, dice, language)}{_pixel(dice)}'


def _gmail_quote(letter: Letter, dice: Dice, language: str) -> str:
    if letter.forwarded:
        header = "<br>".join(
            _text(line) for line in FORWARDS[language][min(2, len(FORWARDS[language]) - 1)].header(letter.forwarded[0])
        )
        return f'<br><br><div class="gmail_quote"><div dir="ltr" class="gmail_attr">{header}</div>{_paragraphs(letter.forwarded[0])}</div>'
    quote = ""
    for mail in reversed(letter.earlier):
        style = next(style for style in QUOTES[language] if style.name.startswith("gmail"))
        header = " ".join(_text(line) for line in style.header(mail) if line)
        quote = (
            f'<br><div class="gmail_quote"><div dir="ltr" class="gmail_attr">{header}<br></div><blockquote class="gmail_quote" '
            f'style="margin:0px 0px 0px 0.8ex;border-left:1px solid rgb(204,204,204);padding-left:1ex">{_paragraphs(mail)}{quote}</blockquote></div>'
        )
    return quote


def _apple(letter: Letter, dice: Dice, language: str) -> str:
    phone = dice.chance(0.5)
    own = "".join(f"<div>{_text(block)}</div><div><br></div>" for block in _blocks(letter))
    quote = ""
    for mail in reversed((*letter.forwarded, *letter.earlier)):
        style = QUOTES[language][5 if language == "de" else 1]
        header = "".join(_text(line) for line in style.header(mail) if line)
        inner = f"{_paragraphs(mail)}{quote}"
        quote = f'<br><blockquote type="cite"><div dir="ltr">{header}<br><br></div></blockquote><blockquote type="cite"><div dir="ltr">{inner}</div></blockquote>'
    if phone:
        return f'<html><head><meta http-equiv="content-type" content="text/html; charset=utf-8"></head><body dir="auto">{own}{quote}</body></html>'
    style = "overflow-wrap: break-word; -webkit-nbsp-mode: space; line-break: after-white-space;"
    return f'<html><head><meta http-equiv="Content-Type" content="text/html; charset=utf-8"></head><body style="{style}">{own}{quote}{_pixel(dice)}</body></html>'


def _gmx(letter: Letter, dice: Dice, language: str) -> str:
    rows = "\n&nbsp;\n".join(f"<div>{_text(block)}</div>" for block in _blocks(letter))
    quote = ""
    for mail in reversed((*letter.forwarded, *letter.earlier)):
        header = "<br/>\n".join(
            f"<b>{line.split(':', 1)[0]}:</b>{_text(line.split(':', 1)[1])}" for line in _gmx_header(mail)
        )
        quote = (
            '<div name="quote" style="margin: 10px 5px 5px 10px; padding: 10px 0 10px 10px; border-left: 2px solid #C3D9E5; word-wrap: break-word;">'
            f'\n<div style="margin: 0 0 10px 0;">{header}</div>\n<div name="quoted-content">{_paragraphs(mail)}{quote}</div></div>'
        )
    return f'<html><head></head><body><div style="font-family: Verdana;font-size: 12.0px;">{rows}\n<div>&nbsp;\n{quote}</div></div></body></html>'


def _gmx_header(mail: Earlier) -> list[str]:
    return next(style for style in QUOTES["de"] if style.name == "gmx").header(mail)[:-1]


def _thunderbird(letter: Letter, dice: Dice, language: str) -> str:
    own = "".join(
        f"<p>{_text(block)}</p>\n"
        for block in [letter.greeting, *letter.paragraphs, "\n".join(letter.closing), letter.postscript]
        if block
    )
    if letter.signature:
        own += f'<div class="moz-signature">{"-- <br>" if letter.dashes else ""}{_text(chr(10).join(letter.signature))}</div>\n'
    own += "".join(f"<p>{_text(text)}</p>" for text in (letter.footer, *letter.legal) if text)
    quote = ""
    if letter.forwarded:
        mail = letter.forwarded[0]
        rows = "".join(
            f'<tr><th valign="BASELINE" align="RIGHT" nowrap="nowrap">{label}: </th><td>{value}</td></tr>'
            for label, value in (
                ("Betreff", _text(mail.subject)),
                ("Datum", f"{mail.sent_at:%d.%m.%Y %H:%M}"),
                ("Von", f"{mail.name} &lt;{mail.address}&gt;"),
                ("An", mail.to),
            )
        )
        head = f'-------- Weitergeleitete Nachricht --------<table class="moz-email-headers-table" cellspacing="0" cellpadding="0" border="0"><tbody>{rows}</tbody></table>'
        quote = f'<div class="moz-forward-container"><br><br>{head}<br><br>{_paragraphs(mail)}</div>'
    for mail in reversed(letter.earlier):
        header = (
            f"Am {mail.sent_at:%d.%m.%Y} um {mail.sent_at:%H:%M} schrieb {_text(mail.name)}:"
            if language == "de"
            else f"On {mail.sent_at:%d/%m/%Y %H:%M}, {_text(mail.name)} wrote:"
        )
        quote = f'<div class="moz-cite-prefix">{header}<br></div><blockquote type="cite" cite="mid:{dice.digits(9)}@{mail.address.split("@")[1]}">{_paragraphs(mail)}{quote}</blockquote>'
    return f'<!DOCTYPE html>\n<html><head>\n<meta http-equiv="content-type" content="text/html; charset=UTF-8">\n</head>\n<body>\n{own}{quote}\n</body>\n</html>'


def _web_form(letter: Letter, dice: Dice, language: str) -> str:
    """What the house's contact form sends: the client's words in one cell of nested tables."""
    labels = (
        ("Name", "E-Mail", "Kundennummer", "Betreff", "Nachricht")
        if language == "de"
        else ("Name", "E-mail", "Client number", "Subject", "Message")
    )
    name = letter.closing[-1] if letter.closing else "-"
    values = (name, "-", dice.digits(8), letter.subject or "-", "\n\n".join(_blocks(letter)))
    rows = "".join(
        f'<tr><td class="label">{label}</td><td class="value">{_text(value, "<br />")}</td></tr>'
        for label, value in zip(labels, values, strict=True)
    )
    title = (
        f"Neue Nachricht über das Kontaktformular von {HOUSE}"
        if language == "de"
        else f"New message from the {HOUSE} contact form"
    )
    quoted = "".join(f"<blockquote>{_paragraphs(mail)}</blockquote>" for mail in (*letter.forwarded, *letter.earlier))
    return (
        f'<!DOCTYPE html><html lang="{language}"><head><meta charset="utf-8"><title>{title}</title>{_FORM_STYLE}</head><body>'
        f'<table class="outer" role="presentation"><tr><td align="center"><table class="card" width="600" cellpadding="0" cellspacing="0" bgcolor="#ffffff">'
        f'<tr><td style="padding:16px 12px;font-weight:bold;color:#0b3d91">{title}</td></tr><tr><td><table width="100%">{rows}</table></td></tr>'
        f'<tr><td style="font-size:11px;color:#999999;padding:12px">&copy; {HOUSE} SE &nbsp;|&nbsp; <a href="https://www.kiebitz-invest.example/abmelden">Abmelden</a></td></tr>'
        f"</table></td></tr></table>{quoted}{_pixel(dice)}</body></html>"
    )


def _bare(letter: Letter, dice: Dice, language: str) -> str:
    """HTML of an app that only knows line breaks and inline fonts."""
    font = dice.pick(
        (
            '<font face="Arial" size="2">',
            '<span style="font-family:Helvetica,Arial;font-size:14px;color:#222222">',
            "<div>",
        )
    )
    end = {"<font": "</font>", "<span": "</span>", "<div>": "</div>"}[font[:5]]
    own = _text("\n\n".join(_blocks(letter)), dice.pick(("<br>", "<br/>", "<br />\n")))
    if dice.chance(0.3):
        own = own.replace(" ", "&nbsp; ", 1).replace("  ", " &nbsp;")
    quote = "".join(
        f"<hr>{'<br>'.join(_text(line) for line in QUOTES[language][0].header(mail))}{_paragraphs(mail)}"
        for mail in (*letter.forwarded, *letter.earlier)
    )
    return f"{font}{own}{end}{quote}"


def _paragraphs(mail: Earlier) -> str:
    return "".join(f"<div>{_text(paragraph)}</div><br>" for paragraph in mail.paragraphs)


_Dialect = Callable[[Letter, Dice, str], str]
_DIALECTS: Weighted[_Dialect] = Weighted(
    (_outlook, _gmail, _apple, _gmx, _thunderbird, _web_form, _bare), (24, 24, 16, 12, 8, 6, 10)
)
