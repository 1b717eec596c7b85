"""Facts that a mail mentions: numbers with valid check digits, amounts, dates, in German or English format.

Nothing here can belong to a real person or bank: bank codes start with 9, which no German bank has, phone numbers come
from the ranges that the Bundesnetzagentur keeps free for films, and domains end in `.example`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from mailtriage.sample.dice import Dice

MONTHS = {
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split(),
    "en": "January February March April May June July August September October November December".split(),
}
WEEKDAYS = {
    "de": "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag".split(),
    "en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
}
_FILM_NUMBERS = (("030", "23125"), ("069", "90009"), ("040", "66969"), ("0221", "4710"), ("089", "99998"))
_CONSONANTS = "BCDFGHJKLMNPQRSTVWXZ"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def iban(dice: Dice) -> str:
    """A German IBAN with valid check digits (ISO 7064, mod 97-10) and a bank code that no bank has."""
    account = f"9{dice.digits(7)}{dice.between(0, 9_999_999_999):010d}"
    check = 98 - int(f"{account}131400") % 97
    return f"DE{check:02d}{account}"


def isin(dice: Dice) -> str:
    """An ISIN with a valid check digit (ISO 6166: letters as two digits, then Luhn)."""
    country = dice.pick(("DE000", "DE000", "US", "IE00", "LU", "FR00", "NL00", "CH00"))
    body = country + "".join(
        dice.pick("0123456789ABCDEFGHJKLMNPRSTUVWXYZ") if dice.chance(0.3) else dice.pick("0123456789")
        for _ in range(11 - len(country))
    )
    digits = [int(digit) for letter in body for digit in str(int(letter, 36))]
    doubled = (sum(divmod(2 * digit, 10)) if place % 2 == 0 else digit for place, digit in enumerate(reversed(digits)))
    return f"{body}{-sum(doubled) % 10}"


def phone(dice: Dice) -> str:
    """A telephone number of a range that is kept for films."""
    if dice.chance(0.4):
        prefix, number = "0171", f"39200{dice.between(10, 99)}"
    else:
        prefix, start = dice.pick(_FILM_NUMBERS)
        number = f"{start}{dice.between(0, 999):03d}"
    style = dice.between(0, 5)
    bare = prefix[1:]
    spaced = f"{number[:3]} {number[3:]}"
    return (
        f"{prefix} {number}",
        f"{prefix}/{number}",
        f"+49 {bare} {number}",
        f"+49 ({bare}) {spaced}",
        f"0049 {bare} {number}",
        f"{prefix} / {spaced}",
    )[style]


def money(value: float, language: str) -> str:
    """`1.234,56` in German, `1,234.56` in English."""
    english = f"{value:,.2f}"
    return english.translate(str.maketrans(",.", ".,")) if language == "de" else english


class Facts:
    """Draws the facts of one mail that was received at a given time."""

    def __init__(self, dice: Dice, language: str, received_at: datetime) -> None:
        self._dice = dice
        self._language = language
        self._received_at = received_at

    def draw(self, kind: str) -> str:
        """A new fact of this kind, one of `PROVIDERS`."""
        return PROVIDERS[kind](self)

    def _iban(self) -> str:
        plain = iban(self._dice)
        if self._dice.chance(0.6):
            return " ".join(plain[start : start + 4] for start in range(0, len(plain), 4))
        return plain

    def _isin(self) -> str:
        return isin(self._dice)

    def _phone(self) -> str:
        return phone(self._dice)

    def _wkn(self) -> str:
        return "".join(self._dice.pick("0123456789ABCDEFGHJKLMNPRSTUVWX") for _ in range(6))

    def _client_no(self) -> str:
        return self._dice.digits(self._dice.pick((7, 8, 9, 10)))

    def _order_no(self) -> str:
        dice = self._dice
        return dice.pick(
            (dice.digits(8), f"{dice.digits(4)}-{dice.digits(5)}", f"OR{dice.digits(7)}", f"#{dice.digits(6)}")
        )

    def _case_no(self) -> str:
        dice = self._dice
        return dice.pick(
            (f"#{dice.digits(7)}", f"CAS-{dice.digits(5)}-{dice.digits(3)}", dice.digits(9), f"KI-{dice.digits(6)}")
        )

    def _amount(self) -> str:
        dice = self._dice
        scale = dice.pick((1_000, 1_000, 5_000, 10_000, 30_000, 100_000))
        return self._euro(round(scale * (0.1 + 0.9 * dice.random()), dice.pick((0, 0, 2))))

    def _small_amount(self) -> str:
        return self._euro(round(1 + 60 * self._dice.random(), self._dice.pick((0, 1, 2, 2))))

    def _rate_amount(self) -> str:
        return self._euro(float(self._dice.pick((10, 25, 25, 50, 50, 75, 100, 100, 150, 200, 250, 300, 500, 1000))))

    def _price(self) -> str:
        return money(round(2 + 400 * self._dice.random() ** 2, 2), self._language)

    def _euro(self, value: float) -> str:
        dice, text = self._dice, money(value, self._language)
        if text.endswith(("00",)) and text[-3] in ",." and dice.chance(0.7):
            text = text[:-3]
            if self._language == "de" and dice.chance(0.15):
                return f"{text},- €"
        if self._language == "en":
            return dice.pick((f"€{text}", f"€{text}", f"EUR {text}", f"{text} EUR", f"{text} euros"))
        return dice.pick((f"{text} €", f"{text} Euro", f"{text} EUR", f"{text}€", f"EUR {text}"))

    def _shares(self) -> str:
        return str(self._dice.pick((3, 5, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 75, 80, 100, 120, 150, 200, 250, 500)))

    def _coins(self) -> str:
        value = f"{self._dice.random() * self._dice.pick((0.5, 1, 5, 50)) + 0.01:.{self._dice.between(2, 4)}f}"
        return value.replace(".", ",") if self._language == "de" else value

    def _percent(self) -> str:
        value = f"{0.5 + 4 * self._dice.random():.{self._dice.pick((1, 2, 2))}f}"
        return f"{value.replace('.', ',')} %" if self._language == "de" else f"{value}%"

    def _share(self) -> str:
        value = str(5 * self._dice.between(2, 18))
        return f"{value} %" if self._language == "de" else f"{value}%"

    def _days(self) -> str:
        return str(self._dice.between(2, 19))

    def _weeks(self) -> str:
        words = {
            "de": ("zwei", "drei", "vier", "fünf", "sechs", "acht", "2", "3", "4", "5"),
            "en": ("two", "three", "four", "five", "six", "eight", "2", "3", "4", "5"),
        }
        return self._dice.pick(words[self._language])

    def _years(self) -> str:
        return str(self._dice.between(2, 15))

    def _age(self) -> str:
        return str(self._dice.between(19, 82))

    def _time(self) -> str:
        hour, minute = self._dice.between(7, 21), self._dice.between(0, 59)
        return f"{hour}:{minute:02d} Uhr" if self._language == "de" else f"{hour}:{minute:02d}"

    def _date(self) -> str:
        return self._day(-self._dice.between(2, 40))

    def _due_date(self) -> str:
        return self._day(self._dice.between(5, 35))

    def _birth_date(self) -> str:
        return self._day(-self._dice.between(20 * 365, 80 * 365))

    def _day(self, offset: int) -> str:
        day = self._received_at + timedelta(days=offset)
        style = self._dice.between(0, 9)
        if self._language == "en":
            month = MONTHS["en"][day.month - 1]
            far = abs(offset) > 200
            return (
                f"{day.day} {month}" + (f" {day.year}" if far else ""),
                f"{month} {day.day}" + (f", {day.year}" if far else ""),
                f"{day.day} {month} {day.year}",
                f"{day:%d/%m/%Y}",
                f"{day:%Y-%m-%d}",
            )[style // 2]
        if style < 4:
            return f"{day:%d.%m.%Y}"
        if style < 6:
            return f"{day.day}. {MONTHS['de'][day.month - 1]}" + (f" {day.year}" if abs(offset) > 200 else "")
        if style < 8:
            return f"{day.day}.{day.month}." + (str(day.year) if abs(offset) > 200 else "")
        return f"{day:%d.%m.%y}" if style == 8 else f"{day.day}. {MONTHS['de'][day.month - 1]} {day.year}"

    def _weekday(self) -> str:
        return self._dice.pick(WEEKDAYS[self._language][:5])

    def _month(self) -> str:
        return MONTHS[self._language][(self._received_at.month - 1 - self._dice.between(0, 3)) % 12]

    def _next_month(self) -> str:
        return MONTHS[self._language][(self._received_at.month - 1 + self._dice.between(1, 3)) % 12]

    def _year(self) -> str:
        return str(self._received_at.year)

    def _last_year(self) -> str:
        return str(self._received_at.year - 1)

    def _wallet_address(self) -> str:
        if self._dice.chance(0.5):
            return "0x" + "".join(self._dice.pick("0123456789abcdef") for _ in range(40))
        return "bc1q" + "".join(self._dice.pick(_BASE58.lower()) for _ in range(38))

    def _txid(self) -> str:
        return "".join(self._dice.pick("0123456789abcdef") for _ in range(64))

    def _reference(self) -> str:
        return "".join(self._dice.pick(_CONSONANTS) for _ in range(2)) + self._dice.digits(6)

    def _error_code(self) -> str:
        return self._dice.pick(("E", "ERR-", "Code ", "")) + self._dice.digits(self._dice.pick((3, 4)))


PROVIDERS: Mapping[str, Callable[[Facts], str]] = {
    name.removeprefix("_"): function
    for name, function in vars(Facts).items()
    if name.startswith("_") and not name.startswith("__") and name not in ("_euro", "_day")
}
