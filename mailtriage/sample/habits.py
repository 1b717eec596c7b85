"""What people do to their own words: typos, ae for ä, no capitals, a second language in between."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailtriage.sample.dice import Dice

_ASCII = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})
_ROWS = ("qwertzuiop", "asdfghjkl", "yxcvbnm")
_NEIGHBOURS = {
    letter: (row[:place] + row[place + 1 :])[max(0, place - 1) : place + 1]
    for row in _ROWS
    for place, letter in enumerate(row)
}
# Not the full stop of a date or an abbreviation.
_FULL_STOP = re.compile(r"(?<=[^\W\d]{4})\. (?=\w)")
_CODE = re.compile(r"\S+")
_WORD = re.compile(r"\b[A-Za-zäöüÄÖÜß]{4,}\b")
_DENGLISH = {
    "Konto": "Account",
    "Überweisung": "Transfer",
    "Rückmeldung": "Feedback",
    "Bestätigung": "Confirmation",
    "gelöscht": "gecancelt",
    "Antwort": "Reply",
    "Passwort": "Password",
    "Unterlagen": "Documents",
    "Frage": "Question",
    "dringend": "asap",
    "Gebühr": "Fee",
    "Auszahlung": "Withdrawal",
    "Vielen Dank": "Thanks",
    "Bitte": "Please",
}

_DENGLISH_WORD = re.compile("|".join(rf"\b{word}\b" for word in _DENGLISH))


@dataclass(frozen=True, slots=True)
class Habits:
    """How one person types. `typos` is the share of longer words that are mistyped."""

    typos: float = 0.0
    lower_case: bool = False
    ascii_umlauts: bool = False
    denglish: bool = False
    no_full_stops: bool = False
    exclaims: bool = False

    @classmethod
    def draw(cls, dice: Dice, language: str) -> Habits:
        german = language == "de"
        return cls(
            typos=0.06 if dice.chance(0.05) else 0.015 if dice.chance(0.25) else 0.0,
            lower_case=dice.chance(0.09 if german else 0.06),
            ascii_umlauts=german and dice.chance(0.1),
            denglish=german and dice.chance(0.05),
            no_full_stops=dice.chance(0.04),
            exclaims=dice.chance(0.05),
        )

    def apply(self, text: str, dice: Dice) -> str:
        if self.denglish:
            text = _DENGLISH_WORD.sub(lambda found: _DENGLISH[found.group()], text)
        if self.typos:
            text = _WORD.sub(lambda found: _mistype(found.group(), dice) if dice.chance(self.typos) else found[0], text)
        if self.ascii_umlauts:
            text = text.translate(_ASCII)
        if self.lower_case:
            text = _keep_codes(text)
        if self.exclaims:
            text = _FULL_STOP.sub("!! " if dice.chance(0.3) else "! ", text.replace("?", "??"))
        if self.no_full_stops:
            text = _FULL_STOP.sub(" ", text).rstrip(".")
        return text


def _keep_codes(text: str) -> str:
    """Lower case, but codes such as an IBAN or ISIN stay as they were copied."""
    return _CODE.sub(lambda found: found[0] if any(letter.isdigit() for letter in found[0]) else found[0].lower(), text)


def _mistype(word: str, dice: Dice) -> str:
    place = dice.between(1, len(word) - 2)
    before, letter, after = word[:place], word[place], word[place + 1 :]
    kind = dice.between(0, 4)
    if kind == 0:
        return before + after
    if kind == 1:
        return before + letter + letter + after
    if kind == 2:
        return before + after[0] + letter + after[1:]
    if kind == 3:
        return before + dice.pick(_NEIGHBOURS.get(letter.lower(), letter)) + after
    return word[0].swapcase() + word[1:] if word[0].islower() else word[:2].upper() + word[2:]
