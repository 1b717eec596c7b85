"""Finds account numbers, card numbers, phone numbers and addresses, for text that is stored or logged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mailtriage.cleaning_rules.edits import Removed
from mailtriage.cleaning_rules.patterns import any_of

# DE89 3704 0044 0532 0130 00
_IBAN = r"(?<![^\W_])[A-Z]{2}[ ]?\d{2}(?:[ .-]?[A-Z0-9]){11,30}(?![^\W_])"
# max.muster@example.org
_EMAIL = r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}"
# 10.000 EUR      5 000,00 Euro: an amount is no account
_NO_AMOUNT = r"(?![\d.]|,\d| ?(?:EUR|Euro|€|USD|CHF|Stück|Stk|Anteile|shares|%|Prozent))"
# Depot-Nr.:\t1234567890      Depotnummer lautet 1234567890      Depot, with the number in the next line
_IS = (
    r"(?: (?:lautet|ist|is|mit der (?:nummer|nr\.?)))?"
    r"(?:[ \t.:#-]{0,4}|[ \t.:#-]{0,3}\r?\n[ \t]{0,2}(?=\d(?:[ /-]?\d){6}))"
)
_TAX = (
    any_of(
        # Steuer-ID 12 345 678 901      Steuernummer: 143/123/12345      USt-IdNr. DE123456789
        r"\b(?:steuer[- ]?(?:identifikationsnummer|identnummer|id(?:-?nr\.?)?|nummer|nr\.?)|idnr\.?"
        r"|USt-?Id(?:-?Nr)?\.?|st\.?[- ]?nr\.?|uid(?:-?nr\.?)?\b)",
        # tax ID: 12345678901      TIN 12345678901      VAT ID DE123456789
        r"\b(?:tin|tax (?:id|number|identification number)|vat(?: ?(?:id|no|number|reg(?:istration)? no))?\b\.?)",
    )
    + _IS
    + r"(?P<tax>(?:[A-Z]{2}U? ?)?\d(?:[ /]?\d){7,12})(?![\d/])"
)
_ACCOUNT = (
    any_of(
        # Depotnummer: 1234567890      Depot (Nr. 123 456 789)      Depot 1234567890      custody account no. 12345678
        r"\b(?P<depot>(?:wertpapier)?depot(?:konto|s)?|custody accounts?|securities accounts?)",
        # Verrechnungskonto 1234567      Kto-Nr. 1234567      Kundennummer 123456      account number 12345678
        r"\b(?:(?:verrechnungs|giro|tagesgeld|festgeld|unter|referenz)?(?:konto|konten)|kto|kunden|kd\.?|accounts?"
        r"|customer|client|(?:vertrags|policen|mitglieds|personen)(?=[- ]?n))",
    )
    + r"(?:[- (]{0,2}(?:nummern?|nrn?|numbers?|no|id))?\b\.?"
    + _IS
    + rf"(?P<number>[A-Z]{{0,3}}\d(?:[ /-]?\d){{4,24}}){_NO_AMOUNT}"
)
# Depotnummern 1234567890 und 1234567891: what may follow an account number
_ANOTHER = re.compile(
    rf"(?:\s?[,;/]\s?|\s(?:und|and|sowie|oder|or|&|\+)\s)(?P<number>[1-9](?:[ /-]?\d){{5,24}}){_NO_AMOUNT}"
)
# 12 345 678 901: an identification number without its name, which its check digit tells
_BARE_TAX = r"(?<![\w.,/-])[1-9]\d(?: ?\d{3}){3}(?![\d.,/-]|[^\W\d])"
# 4111 1111 1111 1111
_CARD = r"(?<![\w.,])\d(?:[ -]?\d){12,18}(?!\d)"
_PHONE = any_of(
    # +49 (0)89 123456-78      0049 170 1234567
    r"(?<![\w.,/+-])(?:\+|00)[1-9]\d{0,2}[ /-]?(?:\(0\) ?)?\(?\d{1,5}\)?(?:[ /.-]{0,3}\d{1,8}){1,6}(?![\d.,]\d)(?!\d)",
    # 089 / 123 45 67      (0170) 1234567      0170-1234567
    r"(?<![\w.,/+-])\(?0[1-9]\d{1,4}\)? ?[/ -] ?\d{2,8}(?:[ -]\d{2,8}){0,4}(?![\d.,]\d)(?!\d)",
    # 01701234567
    r"(?<![\w.,/+-])01[567]\d{8,10}(?!\d)",
)
# Tel. 089123456      Telefonnummer: 123456
_CALLED = (
    r"\b(?:(?:tele)?(?:fon|phone)|tel|mobil(?:e|telefon)?|handy|fax|telefax|ruf(?=n)|cell)"
    r"[- ]?(?:nummer|nr|number|no)?\b\.?"
    rf"[ \t.:#-]{{0,4}}(?P<called>{_PHONE}|\d(?:[ /-]?\d){{4,14}}{_NO_AMOUNT})"
)
_ANY = re.compile(
    r"(?<![^\W_])(?=[\w.+(-])"  # each begins so: most places need not be tried seven times
    f"(?:(?P<iban>{_IBAN})|(?P<email>{_EMAIL})|(?P<taxes>{_TAX})|(?P<account>{_ACCOUNT})|(?P<bare_tax>{_BARE_TAX})"
    f"|(?P<call>{_CALLED})|(?P<phone>{_PHONE})|(?P<card>{_CARD}))",
    re.IGNORECASE,
)
_WRONG_IBAN = re.compile(r"[A-Z]{2} ?\d{2}(?: ?\d){11,30}", re.IGNORECASE)
_HAS_NUMBER = re.compile(r"[@\d]")
_SEPARATORS = re.compile(r"[ ./-]")
_LETTERS = {ord("A") + place: str(10 + place) for place in range(26)}  # as the check digits of an IBAN count them


def redaction_edits(text: str) -> list[Removed]:
    """Edits that put `[IBAN]`, `[CARD]`, `[PHONE]`, `[EMAIL]`, `[DEPOT]`, `[ACCOUNT]` or `[TAX_ID]` where one stood."""
    return list(_edits(text)) if _HAS_NUMBER.search(text) else []


def is_iban(text: str) -> bool:
    """Whether the check digits of an IBAN are right (ISO 13616, modulo 97)."""
    compact = _SEPARATORS.sub("", text).upper()
    if not 15 <= len(compact) <= 34 or not compact.isascii() or not compact.isalnum() or not compact[:2].isalpha():
        return False
    return int((compact[4:] + compact[:4]).translate(_LETTERS)) % 97 == 1


def is_card_number(text: str) -> bool:
    """Whether 13 to 19 digits pass the Luhn check (ISO/IEC 7812)."""
    digits = _digits(text)
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = (digit * 2 - 9 * (digit > 4) for digit in reversed(digits[-2::-2]))
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_tax_id(text: str) -> bool:
    """Whether 11 digits are a German tax identification number (check digit after ISO/IEC 7064, modulo 11, 10)."""
    digits = _digits(text)
    if len(digits) != 11 or digits[0] == 0:
        return False
    product = 10
    for digit in digits[:10]:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == digits[10]


def _digits(text: str) -> list[int]:
    return [int(character) for character in text if character in "0123456789"]


def _edits(text: str) -> Iterator[Removed]:
    position = 0
    while (match := _ANY.search(text, position)) is not None:
        edit = _edit(match)
        if edit is None:
            # a number that is none is not tried again from its middle
            position = _after_number(text, match)
        else:
            yield edit
            position = edit.end
            while match["account"] is not None and (another := _ANOTHER.match(text, position)) is not None:
                yield _removed(another, "number", "DEPOT" if match["depot"] else "ACCOUNT")
                position = another.end()


def _after_number(text: str, match: re.Match[str]) -> int:
    """The next place where something may begin, after a number that turned out to be none."""
    if match["card"] is not None:
        return match.end()
    position = match.start()
    if match["iban"] is not None and (digits := _WRONG_IBAN.match(text, position)) is not None:
        return digits.end()
    while position < len(text) and text[position].isalnum():
        position += 1
    return position + 1


def _edit(match: re.Match[str]) -> Removed | None:
    if match["iban"] is not None:
        return _iban_edit(match, "iban")
    if match["account"] is not None:
        number = _STARTS_IBAN.match(match.string, match.start("number"))  # Verrechnungskonto DE89 3704 ...
        iban = _iban_edit(number, 0) if number else None
        return iban or _removed(match, "number", "DEPOT" if match["depot"] else "ACCOUNT")
    for group, placeholder, is_one in _GROUPS:
        if match[group] is not None:
            return _removed(match, group, placeholder) if is_one is None or is_one(match[group]) else None
    return None


# Group of the pattern, placeholder, check.
_GROUPS: tuple[tuple[str, str, Callable[[str], bool] | None], ...] = (
    ("email", "EMAIL", None),
    ("tax", "TAX_ID", None),
    ("called", "PHONE", None),
    ("phone", "PHONE", None),
    ("bare_tax", "TAX_ID", is_tax_id),
    ("card", "CARD", is_card_number),
)
# Characters of an IBAN in the countries that most clients bank in (ISO 13616 registry); elsewhere any length may be.
_IBAN_LENGTHS = {"AT": 20, "BE": 16, "CH": 21, "DE": 22, "ES": 24, "FR": 27, "GB": 22, "IT": 27, "LI": 21}
_IBAN_LENGTHS |= {"LU": 20, "NL": 18, "PL": 28}
_STARTS_IBAN = re.compile(_IBAN, re.IGNORECASE)


def _iban_edit(match: re.Match[str], group: str | int) -> Removed | None:
    """The pattern may run on into the next word: take as much as the country's IBANs have."""
    text, start = match[group], match.start(group)
    length = _IBAN_LENGTHS.get(text[:2].upper())
    characters = sum(map(str.isalnum, text))
    whole = True
    for end in range(len(text), 14, -1):
        if whole and length in (None, characters) and is_iban(text[:end]):
            return Removed("redacted", "iban", start, start + end, "[IBAN]")
        whole = not text[end - 1].isalnum()
        characters -= not whole
    return None


def _removed(match: re.Match[str], group: str, placeholder: str) -> Removed:
    return Removed("redacted", placeholder.lower(), match.start(group), match.end(group), f"[{placeholder}]")
