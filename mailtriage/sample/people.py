"""Who writes: a private person or somebody at a firm, with address, telephone and e-mail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mailtriage.sample.dice import Dice
from mailtriage.sample.facts import phone

_PLAIN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ö": "Oe", "ş": "s", "ı": "i", "ć": "c"})


@dataclass(frozen=True, slots=True)
class Firm:
    name: str
    legal_form: str
    role: str
    town: str
    director: str
    host: str

    @property
    def full_name(self) -> str:
        return f"{self.name} {self.legal_form}"

    @property
    def town_name(self) -> str:
        return self.town.split(" ", 1)[1]

    @property
    def register(self) -> str:
        """Which German register a firm of this legal form is entered in."""
        if "PartG" in self.legal_form:
            return "PR"
        return "HRA" if self.legal_form in ("e.K.", "GmbH & Co. KG") else "HRB"


@dataclass(frozen=True, slots=True)
class Person:
    first: str
    last: str
    email: str
    phone: str
    street: str
    town: str
    title: str = ""
    firm: Firm | None = None

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"

    @property
    def town_name(self) -> str:
        return self.town.split(" ", 1)[1]


class People:
    """Draws persons from the lists of `people.yaml`."""

    def __init__(self, lists: Mapping[str, Any]) -> None:
        self._lists = lists

    def person(self, dice: Dice, language: str, business: bool = False) -> Person:
        lists = self._lists
        first = dice.pick(lists["first_names"][language])
        last = dice.pick(lists["last_names"][language])
        firm = self._firm(dice, last) if business else None
        return Person(
            first=first,
            last=last,
            email=_email(dice, first, last, firm.host if firm else dice.pick(lists["mail_hosts"])),
            phone=phone(dice),
            street=self.street(dice),
            town=dice.pick(lists["towns"]),
            title=dice.pick(lists["titles"]) if dice.chance(0.08) else "",
            firm=firm,
        )

    def name(self, dice: Dice, language: str) -> str:
        return f"{dice.pick(self._lists['first_names'][language])} {self.last(dice, language)}"

    def last(self, dice: Dice, language: str) -> str:
        return str(dice.pick(self._lists["last_names"][language]))

    def street(self, dice: Dice) -> str:
        number = dice.between(1, 140)
        return f"{dice.pick(self._lists['streets'])} {number}{dice.pick('abc') if dice.chance(0.15) else ''}"

    def town(self, dice: Dice) -> str:
        return str(dice.pick(self._lists["towns"]))

    def _firm(self, dice: Dice, writer: str) -> Firm:
        own = dice.chance(0.4)
        last = writer if own else self.last(dice, "de")
        pattern, legal_form, role = dice.pick(self._lists["firms"])
        name = pattern.format(last=last)
        host = "-".join(name.lower().translate(_PLAIN).replace("&", "und").replace(".", "").split()) + ".example"
        return Firm(name, legal_form, role, self.town(dice), self.name(dice, "de"), host)


def _email(dice: Dice, first: str, last: str, host: str) -> str:
    first, last = (part.lower().translate(_PLAIN).replace(" ", "-").replace("'", "") for part in (first, last))
    local = dice.pick(
        (f"{first}.{last}", f"{first[0]}.{last}", f"{last}.{first}", f"{first}{dice.between(55, 99)}", last)
    )
    return f"{local}@{host}"
