"""Finds account numbers, card numbers, phone numbers and addresses, for text that is stored or logged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mailtriage.edits import Removed

# DE89 3704 0044 0532 0130 00
_IBAN = r"(?<![A-Za-z0-9])[A-Za-z]{2}[ ]?\d{2}(?:[ .-]?[A-Za-z0-9]){11,30}(?![A-Za-z0-9])"
# 4111 1111 1111 1111
_CARD = r"(?<![\d])\d(?:[ -]?\d){12,18}(?![\d])"
# max.muster@example.org
_EMAIL = r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}"
# Depotnummer: 1234567890      Depot-Nr. 123 456 789      Verrechnungskonto 1234567
_ACCOUNT = (
    r"\b(?:(?P<depot>depot|wertpapierdepot|custody(?: account)?|securities account)|(?:verrechnungs|giro|tagesgeld|festgeld|unter|kunden)?(?:konto|kunden|kd)|account|customer|client)"
    r"[- ]?(?:nummer|nr|number|no|id)?\b[ .:#-]{0,4}(?:lautet |ist |is |mit der (?:nummer|nr\.?) )?[#:]?\s?(?P<number>[A-Z]{0,3}\d(?:[ ./-]?\d){4,17})(?!\d)"
)
# Steuer-ID 12 345 678 901      Steuernummer 143/123/12345
_TAX = r"\b(?:steuer[- ]?(?:identifikationsnummer|identnummer|id(?:-?nr\.?)?|nummer|nr\.?)|idnr\.?|tin|tax (?:id|number)|USt-?Id(?:Nr)?\.?)[ .:#-]{0,4}(?:lautet |ist |is )?(?P<tax>(?:[A-Z]{2}\s?)?\d(?:[ ./-]?\d){7,12})(?!\d)"
# +49 (0)89 123456-78      0170/1234567
_PHONE = r"(?<![\w.,/-])(?:\+|00)\d{1,3}[ /-]?(?:\(0\)[ ]?)?(?:\(?\d{1,5}\)?[ /.-]{0,3}){2,6}\d(?!\d)|(?<![\w.,/+-])\(?0\d{1,5}\)?[ ]?[/ -][ ]?\d{2,}(?:[ -]?\d){2,9}(?![\d.,]\d)|(?<![\w.,/+-])01[567]\d{8,10}(?!\d)"
_PATTERN = re.compile(
    f"(?P<iban>{_IBAN})|(?P<email>{_EMAIL})|(?P<taxes>{_TAX})|(?P<account>{_ACCOUNT})|(?P<card>{_CARD})|(?P<phone>{_PHONE})",
    re.IGNORECASE,
)


def is_iban(text: str) -> bool:
    """Whether the check digits of an IBAN are right (ISO 13616, modulo 97)."""
    compact = re.sub(r"[ .-]", "", text).upper()
    if not 15 <= len(compact) <= 34 or not compact[:2].isalpha() or not compact.isascii() or not compact.isalnum():
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def is_card_number(text: str) -> bool:
    """Whether 13 to 19 digits pass the Luhn check (ISO/IEC 7812)."""
    digits = [int(character) for character in text if character.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = (
        digit if position % 2 == 0 else digit * 2 - 9 * (digit > 4) for position, digit in enumerate(reversed(digits))
    )
    return sum(doubled) % 10 == 0


def redaction_edits(text: str) -> list[Removed]:
    """Edits that put `[IBAN]`, `[CARD]`, `[PHONE]`, `[EMAIL]`, `[DEPOT]`, `[ACCOUNT]` or `[TAX_ID]` where one stood."""
    return list(_edits(text))


def _edits(text: str) -> Iterator[Removed]:
    position = 0
    while (match := _PATTERN.search(text, position)) is not None:
        edit = _edit(match)
        if edit is None:
            position = match.start() + 1
            while position < len(text) and text[position].isalnum() and text[position - 1].isalnum():
                position += 1
            continue
        yield edit
        position = edit.end


def _edit(match: re.Match[str]) -> Removed | None:
    if match["iban"] is not None:
        return _iban_edit(match)
    if match["email"] is not None:
        return _removed(match, "email", "EMAIL")
    if match["taxes"] is not None:
        return _removed(match, "tax", "TAX_ID")
    if match["account"] is not None:
        return _removed(match, "number", "DEPOT" if match["depot"] else "ACCOUNT")
    if match["card"] is not None:
        return _removed(match, "card", "CARD") if is_card_number(match["card"]) else None
    return _removed(match, "phone", "PHONE")


def _iban_edit(match: re.Match[str]) -> Removed | None:
    """The pattern may run on into the next word: take the longest start that is an IBAN."""
    text = match["iban"]
    checks: Callable[[str], bool] = is_iban
    for end in range(len(text), 14, -1):
        if text[end - 1].isalnum() and (end == len(text) or not text[end].isalnum()) and checks(text[:end]):
            return Removed("redacted", "iban", match.start(), match.start() + end, "[IBAN]")
    return None


def _removed(match: re.Match[str], group: str, placeholder: str) -> Removed:
    return Removed("redacted", placeholder.lower(), match.start(group), match.end(group), f"[{placeholder}]")
