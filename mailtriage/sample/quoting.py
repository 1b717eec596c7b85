"""The lines that mail programs put above a message that they quote or forward, German and English."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mailtriage.sample.dice import Weighted
from mailtriage.sample.facts import MONTHS, WEEKDAYS
from mailtriage.sample.letter import Earlier


@dataclass(frozen=True, slots=True)
class Style:
    """One way to quote: `header` gives the lines above a message; `marked` puts `>` before the lines of the message."""

    name: str
    header: Callable[[Earlier], list[str]]
    marked: bool = False
    header_marked: bool = False


def _weekday(mail: Earlier, language: str) -> str:
    return WEEKDAYS[language][mail.sent_at.weekday()]


def _month(mail: Earlier, language: str) -> str:
    return MONTHS[language][mail.sent_at.month - 1]


def _clock(mail: Earlier) -> str:
    hour = mail.sent_at.hour % 12 or 12
    return f"{hour}:{mail.sent_at:%M} {'AM' if mail.sent_at.hour < 12 else 'PM'}"


_SHORT_MONTHS_DE = ("Jan.", "Feb.", "März", "Apr.", "Mai", "Juni", "Juli", "Aug.", "Sept.", "Okt.", "Nov.", "Dez.")


def _short_month(mail: Earlier) -> str:
    return _SHORT_MONTHS_DE[mail.sent_at.month - 1]


def _day_de(mail: Earlier) -> str:
    return f"{_weekday(mail, 'de')}, {mail.sent_at.day}. {_month(mail, 'de')} {mail.sent_at.year}"


def _short_day_de(mail: Earlier) -> str:
    return f"{_weekday(mail, 'de')[:2]}., {mail.sent_at.day}. {_short_month(mail)} {mail.sent_at.year}"


def _short_day_en(mail: Earlier) -> str:
    return f"{_month(mail, 'en')[:3]} {mail.sent_at.day}, {mail.sent_at.year}"


def _outlook_de(mail: Earlier) -> list[str]:
    when = f"{_day_de(mail)} {mail.sent_at:%H:%M}"
    return [f"Von: {mail.name} <{mail.address}>", f"Gesendet: {when}", f"An: {mail.to}", f"Betreff: {mail.subject}", ""]


def _outlook_en(mail: Earlier) -> list[str]:
    when = f"{_weekday(mail, 'en')}, {_month(mail, 'en')} {mail.sent_at.day}, {mail.sent_at.year} {_clock(mail)}"
    return [f"From: {mail.name} <{mail.address}>", f"Sent: {when}", f"To: {mail.to}", f"Subject: {mail.subject}", ""]


def _thunderbird_de(mail: Earlier) -> list[str]:
    return [f"Am {mail.sent_at:%d.%m.%Y} um {mail.sent_at:%H:%M} schrieb {mail.name}:"]


def _gmail_de(mail: Earlier) -> list[str]:
    return [f"Am {_short_day_de(mail)} um {mail.sent_at:%H:%M} Uhr schrieb {mail.name} <", f"{mail.address}>:", ""]


def _apple_de(mail: Earlier) -> list[str]:
    return [f"Am {mail.sent_at:%d.%m.%Y} um {mail.sent_at:%H:%M} schrieb {mail.name} <{mail.address}>:", ""]


def _yahoo_de(mail: Earlier) -> list[str]:
    when = f"{_day_de(mail)} um {mail.sent_at:%H:%M:%S} MEZ"
    return [f"Am {when} hat {mail.name} <{mail.address}> Folgendes geschrieben:", ""]


def _gmx(mail: Earlier) -> list[str]:
    return [
        f"Gesendet: {_day_de(mail)} um {mail.sent_at:%H:%M} Uhr",
        f'Von: "{mail.name}" <{mail.address}>',
        f"An: {mail.to}",
        f"Betreff: {mail.subject}",
        "",
    ]


def _samsung_de(mail: Earlier) -> list[str]:
    return [
        "-------- Ursprüngliche Nachricht --------",
        f"Von: {mail.name} <{mail.address}>",
        f"Datum: {mail.sent_at:%d.%m.%y} {mail.sent_at:%H:%M} (GMT+01:00)",
        f"An: {mail.to}",
        f"Betreff: {mail.subject}",
        "",
    ]


def _gmail_en(mail: Earlier) -> list[str]:
    day = f"{_weekday(mail, 'en')[:3]}, {_short_day_en(mail)}"
    return [f"On {day} at {_clock(mail)} {mail.name} <{mail.address}>", "wrote:", ""]


def _apple_en(mail: Earlier) -> list[str]:
    when = f"{mail.sent_at.day} {_month(mail, 'en')[:3]} {mail.sent_at.year}, at {mail.sent_at:%H:%M}"
    return [f"On {when}, {mail.name} <{mail.address}> wrote:", ""]


def _ruled(header: Callable[[Earlier], list[str]], rule: str) -> Callable[[Earlier], list[str]]:
    return lambda mail: [rule, *header(mail)]


def _forward_gmail(mail: Earlier) -> list[str]:
    return [
        "---------- Forwarded message ---------",
        f"Von: {mail.name} <{mail.address}>",
        f"Date: {_short_day_de(mail)} um {mail.sent_at:%H:%M} Uhr",
        f"Subject: {mail.subject}",
        f"To: <{mail.to}>",
        "",
        "",
    ]


def _forward_thunderbird(mail: Earlier) -> list[str]:
    day = f"{_weekday(mail, 'en')[:3]}, {mail.sent_at.day} {_month(mail, 'en')[:3]} {mail.sent_at.year}"
    return [
        "-------- Weitergeleitete Nachricht --------",
        f"Betreff: \t{mail.subject}",
        f"Datum: \t{day} {mail.sent_at:%H:%M:%S} +0100",
        f"Von: \t{mail.name} <{mail.address}>",
        f"An: \t{mail.to}",
        "",
        "",
    ]


def _forward_apple(mail: Earlier) -> list[str]:
    when = f"{mail.sent_at.day}. {_month(mail, 'de')} {mail.sent_at.year} um {mail.sent_at:%H:%M:%S} MEZ"
    return [
        "Anfang der weitergeleiteten Nachricht:",
        "",
        f"Von: {mail.name} <{mail.address}>",
        f"Betreff: Aw: {mail.subject}",
        f"Datum: {when}",
        f"An: {mail.to}",
        "",
    ]


def _forward_apple_en(mail: Earlier) -> list[str]:
    when = f"{mail.sent_at.day} {_month(mail, 'en')} {mail.sent_at.year} at {mail.sent_at:%H:%M:%S} CET"
    lines = [f"From: {mail.name} <{mail.address}>", f"Subject: {mail.subject}", f"Date: {when}", f"To: {mail.to}", ""]
    return ["Begin forwarded message:", "", *lines]


_RULE_DE = "-----Ursprüngliche Nachricht-----"
_RULE_EN = "-----Original Message-----"

QUOTES = {
    "de": Weighted(
        (
            Style("outlook", _outlook_de),
            Style("outlook_rule", _ruled(_outlook_de, _RULE_DE)),
            Style("outlook_line", _ruled(_outlook_de, "_" * 32)),
            Style("thunderbird", _thunderbird_de, marked=True),
            Style("gmail", _gmail_de, marked=True),
            Style("apple", _apple_de, marked=True, header_marked=False),
            Style("iphone", _apple_de, marked=True, header_marked=True),
            Style("yahoo", _yahoo_de),
            Style("gmx", _gmx),
            Style("samsung", _samsung_de),
            Style("gmail_en", _gmail_en, marked=True),
            Style("outlook_en", _outlook_en),
        ),
        (20, 12, 6, 10, 14, 8, 6, 4, 8, 5, 3, 4),
    ),
    "en": Weighted(
        (
            Style("gmail_en", _gmail_en, marked=True),
            Style("apple_en", _apple_en, marked=True),
            Style("iphone_en", _apple_en, marked=True, header_marked=True),
            Style("outlook_en", _outlook_en),
            Style("outlook_en_rule", _ruled(_outlook_en, _RULE_EN)),
            Style("outlook_en_line", _ruled(_outlook_en, "_" * 32)),
            Style("outlook", _outlook_de),
            Style("gmail", _gmail_de, marked=True),
        ),
        (26, 14, 6, 22, 10, 8, 8, 6),
    ),
}

FORWARDS = {
    "de": Weighted(
        (
            Style("outlook", _outlook_de),
            Style("outlook_rule", _ruled(_outlook_de, "-----Weitergeleitete Nachricht-----")),
            Style("gmail_forward", _forward_gmail),
            Style("thunderbird_forward", _forward_thunderbird),
            Style("apple_forward", _forward_apple, marked=True, header_marked=True),
            Style("gmx", _gmx),
        ),
        (30, 8, 20, 15, 15, 12),
    ),
    "en": Weighted(
        (
            Style("outlook_en", _outlook_en),
            Style("gmail_forward", _forward_gmail),
            Style("apple_forward_en", _forward_apple_en, marked=True, header_marked=True),
            Style("outlook_en_rule", _ruled(_outlook_en, "-----Original Message-----")),
        ),
        (40, 30, 20, 10),
    ),
}


def named(styles: Weighted[Style], name: str) -> Style:
    """The style of this name."""
    return next(style for style in styles if style.name == name)
