"""What stands around a request: greeting, closing formula, signature, small print, and the house's own replies."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from mailtriage.sample.dice import Dice, Weighted
from mailtriage.sample.library import formulas
from mailtriage.sample.people import Firm, Person

HOUSE = "Kiebitz Invest"
HOUSE_ADDRESS = "service@kiebitz-invest.example"
_IMPRESSUM = (
    f"{HOUSE} SE · Speicherzeile 8 · 20457 Hamburg\n"
    "Vorstand: Dr. Inga Claasen (Vorsitz), Ruben Tiedemann · Aufsichtsrat: Prof. Dr. Maike Ohlsen\n"
    "Sitz der Gesellschaft: Hamburg · Amtsgericht Hamburg, HRB 900417 · USt-IdNr. DE999417003"
)


@dataclass(frozen=True, slots=True)
class SignOff:
    """How a writer opens and ends one mail, and what firm and mail program add below."""

    greeting: str
    closing: list[str]
    signature: list[str] = field(default_factory=list)
    dashes: bool = False
    legal: list[str] = field(default_factory=list)
    footer: str = ""


@cache
def _weighted(language: str, kind: str) -> Weighted[str]:
    content: dict[str, float] = formulas(language)[kind]
    return Weighted([text.replace("{house}", HOUSE) for text in content], tuple(content.values()))


def sign_off(dice: Dice, language: str, writer: Person, *, terse: bool = False) -> SignOff:
    """Draw greeting, closing, signature and footer of one mail."""
    greeting = "" if terse and dice.chance(0.55) else _weighted(language, "greetings").draw(dice)
    closing = "" if terse and dice.chance(0.4) else _weighted(language, "closings").draw(dice)
    lines = _closing_lines(dice, language, closing, writer)
    if writer.firm:
        card = _business_card(dice, writer, writer.firm)
        return SignOff(greeting, lines, card, dice.chance(0.35), _small_print(dice, language, writer.firm))
    # A German telephone adds its German line below an English mail, too.
    added: list[str] = formulas(language if dice.chance(0.9) else "de")["footers"]
    footer = dice.pick(added) if dice.chance(0.18) else ""
    if dice.chance(0.2):
        return SignOff(greeting, lines, _private_card(dice, writer), dice.chance(0.5), [], footer)
    return SignOff(greeting, lines, footer=footer)


def house_reply(dice: Dice, language: str, client: Person, lines: list[str], agent: str) -> list[str]:
    """The paragraphs of a mail that the house sent, often with its impressum."""
    texts: dict[str, Any] = formulas(language)
    greeting: str = dice.pick(texts["house_greetings"]).format(client=client.name)
    closing = texts["house_closing"].format(agent=agent.rsplit(" ", 1)[-1], house=HOUSE)
    body = [lines[0], *(line[0].upper() + line[1:] for line in lines[1:])]
    return [greeting, *body, closing, *([_IMPRESSUM] if dice.chance(0.6) else [])]


def _closing_lines(dice: Dice, language: str, closing: str, writer: Person) -> list[str]:
    name = _signed_name(dice, language, writer)
    if not closing:
        return [name] if dice.chance(0.6) else []
    formula = closing.format(town=writer.town_name)
    return [f"{formula.rstrip(',')}, {name}"] if dice.chance(0.08) else [formula, name]


def _signed_name(dice: Dice, language: str, writer: Person) -> str:
    if writer.firm or dice.chance(0.7):
        return f"{writer.title} {writer.name}".strip()
    first, last = writer.first, writer.last
    family = f"Familie {last}" if language == "de" else f"The {last} family"
    return dice.pick((first, first, f"{first[0]}. {last}", f"{last}, {first}", last, family))


def _private_card(dice: Dice, writer: Person) -> list[str]:
    telephone = dice.pick(("Tel. ", "Tel.: ", "Mobil: ", "Telefon ", "Fon ")) + writer.phone
    kept = [line for line in (writer.street, writer.town, telephone, writer.email) if dice.chance(0.75)]
    return [writer.name, *kept] if dice.chance(0.4) else kept


def _business_card(dice: Dice, writer: Person, firm: Firm) -> list[str]:
    lines = [f"{writer.title} {writer.name}".strip(), firm.role, "", firm.full_name, f"{writer.street} | {firm.town}"]
    if dice.chance(0.5):
        lines += [f"T {writer.phone}", f"M {writer.email}", f"www.{firm.host}"]
    else:
        lines += [f"Telefon: {writer.phone}", f"E-Mail: {writer.email}"]
    return lines if dice.chance(0.7) else lines[3:]


def _small_print(dice: Dice, language: str, firm: Firm) -> list[str]:
    """Impressum and disclaimer of a firm; either may be missing."""
    blocks = [_impressum(dice, language, firm)] if dice.chance(0.75) else []
    if dice.chance(0.5):
        disclaimers: list[str] = formulas(language)["disclaimers"]
        blocks.append(dice.pick(disclaimers))
    return blocks


def _impressum(dice: Dice, language: str, firm: Firm) -> str:
    court = firm.town_name
    register = f"{firm.register} {dice.digits(5)}"
    lead = f"{formulas(language if dice.chance(0.5) else 'de')['impressum_lead']}: {firm.director}"
    tax = f"USt-IdNr.: DE999{dice.digits(6)}"
    tax_number = f"Steuernummer: {dice.digits(2)}/{dice.digits(3)}/{dice.digits(5)}"
    return dice.pick(
        (
            f"{firm.full_name}, Sitz: {court}\nAmtsgericht {court}, {register}\n{lead}\n{tax}",
            f"{lead} | Registergericht: {court} | {register} | {tax}",
            f"Sitz der Gesellschaft: {court}, Registergericht Amtsgericht {court}, {register}; {lead}",
            f"{firm.full_name}\n{lead}\n{tax_number}\n{register} {court}",
            f"{firm.full_name} · {firm.town} · {register} · {lead}",
        )
    )
