"""What stands around the request: greetings, closing formulas, signatures, impressum, disclaimers, and the house's own replies."""

from __future__ import annotations

from dataclasses import dataclass, field

from mailtriage.sample.dice import Dice, Weighted
from mailtriage.sample.people import Firm, Person

HOUSE = "Kiebitz Invest"
HOUSE_ADDRESS = "service@kiebitz-invest.example"

_GREETINGS = {
    "de": Weighted(
        ("Sehr geehrte Damen und Herren,", "Guten Tag,", "Hallo,", "Hallo zusammen,", f"Liebes {HOUSE}-Team,", "Guten Abend,",
         "Sehr geehrtes Serviceteam,", "Moin,", "Servus,", f"Hallo {HOUSE},", "Hi,", "Hallo liebes Team,", "Guten Morgen,",
         "Sehr geehrte Frau Lorenz,", "Hallo Herr Nowak,", "Sehr geehrter Herr Haas,", "Werte Damen und Herren,", "Guten Tag!", ""),
        (26, 14, 14, 6, 4, 3, 3, 2, 1, 4, 3, 3, 3, 1, 1, 1, 1, 2, 8),
    ),
    "en": Weighted(
        ("Dear Sir or Madam,", "Dear Sirs,", "Hello,", "Hi,", "Hi there,", "Dear team,", f"Dear {HOUSE} team,", "Good morning,",
         "Hi team,", "To whom it may concern,", "Dear Mr Nowak,", "Hello everyone,", "Good afternoon,", ""),
        (12, 6, 20, 15, 6, 10, 8, 5, 4, 3, 1, 1, 3, 8),
    ),
}  # fmt: skip
_CLOSINGS = {
    "de": Weighted(
        ("Mit freundlichen Grüßen", "Viele Grüße", "Beste Grüße", "Freundliche Grüße", "MfG", "Gruß", "LG", "VG", "Liebe Grüße",
         "Mit freundlichem Gruß", "Schöne Grüße aus {town}", "Herzliche Grüße", "Danke und Gruß", "mfg", "Hochachtungsvoll",
         "Mit besten Grüßen", "Schönes Wochenende", "Grüße", ""),
        (28, 11, 6, 5, 6, 5, 3, 3, 3, 3, 1, 1, 3, 2, 1, 3, 1, 4, 9),
    ),
    "en": Weighted(
        ("Kind regards,", "Best regards,", "Regards,", "Best,", "Many thanks,", "Thanks,", "Yours sincerely,", "Yours faithfully,",
         "Cheers,", "Thank you,", "With best wishes,", ""),
        (22, 20, 12, 8, 6, 8, 5, 3, 4, 5, 1, 8),
    ),
}  # fmt: skip
_FOOTERS = {
    "de": ("Von meinem iPhone gesendet", "Gesendet von meinem iPhone", "Von meinem iPad gesendet", "Gesendet von meinem Samsung Galaxy Smartphone.",
           "Diese Nachricht wurde von meinem Android-Gerät mit GMX Mail gesendet.", "Gesendet mit der WEB.DE Mail App", "Gesendet von Outlook für Android",
           "Gesendet von Outlook für iOS", "Gesendet mit der Telekom Mail App", "Von meinem/meiner Galaxy gesendet",
           "Diese E-Mail wurde von Avast-Antivirussoftware auf Viren geprüft.\nwww.avast.com", "Virenfrei.www.avast.com",
           "Gesendet: von unterwegs, bitte Tippfehler entschuldigen"),
    "en": ("Sent from my iPhone", "Sent from my iPad", "Get Outlook for iOS", "Get Outlook for Android", "Sent from my Galaxy",
           "Sent from Yahoo Mail on Android", "Sent via BlackBerry", "Virus-free.www.avast.com", "Sent from Proton Mail for iOS",
           "This email has been checked for viruses by Avast antivirus software."),
}  # fmt: skip
_DISCLAIMERS = {
    "de": (
        "Diese E-Mail enthält vertrauliche und/oder rechtlich geschützte Informationen. Wenn Sie nicht der richtige Adressat sind oder diese E-Mail "
        "irrtümlich erhalten haben, informieren Sie bitte sofort den Absender und vernichten Sie diese Mail. Das unerlaubte Kopieren sowie die "
        "unbefugte Weitergabe dieser Mail sind nicht gestattet.",
        "Bitte denken Sie an die Umwelt, bevor Sie diese E-Mail ausdrucken.",
        "Informationen zum Datenschutz nach Art. 13 DSGVO finden Sie auf unserer Webseite unter Datenschutz.",
        "Der Inhalt dieser E-Mail ist ausschließlich für den bezeichneten Adressaten bestimmt. Jede Form der Kenntnisnahme, Veröffentlichung oder "
        "Vervielfältigung durch Dritte ist unzulässig.",
        "Hinweis: Rechtsverbindliche Erklärungen per E-Mail bedürfen der schriftlichen Bestätigung.",
    ),
    "en": (
        "This message and any attachments are confidential and intended solely for the addressee. If you have received it in error, please notify "
        "the sender and delete it. Any unauthorised copying, disclosure or distribution is strictly forbidden.",
        "Please consider the environment before printing this e-mail.",
        "The information in this email is confidential and may be legally privileged. Access to this email by anyone else is unauthorised.",
    ),
}


@dataclass(frozen=True, slots=True)
class SignOff:
    """Greeting, closing formula with the name, and what the mail program adds below."""

    greeting: str
    closing: list[str]
    signature: list[str] = field(default_factory=list)
    dashes: bool = False
    legal: list[str] = field(default_factory=list)
    footer: str = ""


def sign_off(dice: Dice, language: str, writer: Person, *, terse: bool, line: str) -> SignOff:
    """How a writer opens and ends a mail."""
    greeting = "" if terse and dice.chance(0.55) else _GREETINGS[language].draw(dice)
    closing = "" if terse and dice.chance(0.4) else _CLOSINGS[language].draw(dice)
    name = _signed_name(dice, writer, formal=writer.firm is not None)
    lines = [closing.format(town=writer.town.split(" ", 1)[1]), name] if closing else [name] if dice.chance(0.6) else []
    if closing and dice.chance(0.08):
        lines = [f"{lines[0].rstrip(',')}, {name}"]
    footer = (
        dice.pick(_FOOTERS[language if dice.chance(0.9) else "de"]) if dice.chance(0.16) and not writer.firm else ""
    )
    if writer.firm:
        return SignOff(
            greeting,
            lines,
            _business_card(dice, writer, writer.firm),
            dice.chance(0.35),
            _legal(dice, language, writer.firm),
            footer,
        )
    if dice.chance(0.2):
        return SignOff(greeting, lines, _private_card(dice, writer), dice.chance(0.5), [], footer)
    return SignOff(greeting, lines, footer=footer)


def house_reply(dice: Dice, language: str, client: Person, lines: list[str], agent: str) -> list[str]:
    """The paragraphs of a mail that the house sent, with its impressum."""
    if language == "de":
        greeting = dice.pick(
            (f"Guten Tag {client.name},", f"Sehr geehrte/r {client.name},", "Sehr geehrte Kundin, sehr geehrter Kunde,")
        )
        closing = f"Mit freundlichen Grüßen\n{agent.split(' ')[-1]}\nKundenservice {HOUSE}"
    else:
        greeting = dice.pick((f"Dear {client.name},", f"Hello {client.first},", "Dear client,"))
        closing = f"Kind regards\n{agent.split(' ')[-1]}\n{HOUSE} Client Service"
    impressum = (
        f"{HOUSE} SE · Speicherzeile 8 · 20457 Hamburg\nVorstand: Dr. Inga Claasen (Vorsitz), Ruben Tiedemann · Aufsichtsrat: Prof. Dr. Maike Ohlsen\n"
        "Sitz der Gesellschaft: Hamburg · Amtsgericht Hamburg, HRB 900417 · USt-IdNr. DE999417003"
    )
    parts = [greeting, *lines, closing]
    return [*parts, impressum] if dice.chance(0.6) else parts


def _signed_name(dice: Dice, writer: Person, formal: bool) -> str:
    title = f"{writer.title} " if writer.title and writer.title[0].isupper() and "." in writer.title else ""
    if formal or dice.chance(0.7):
        return f"{title}{writer.name}"
    return dice.pick(
        (
            writer.first,
            f"{writer.first[0]}. {writer.last}",
            f"{writer.last}, {writer.first}",
            writer.last,
            f"Familie {writer.last}",
        )
    )


def _private_card(dice: Dice, writer: Person) -> list[str]:
    lines = [
        writer.street,
        writer.town,
        dice.pick(("Tel. ", "Tel.: ", "Mobil: ", "Telefon ", "Fon ")) + writer.phone,
        writer.email,
    ]
    kept = [line for line in lines if dice.chance(0.75)]
    return [writer.name, *kept] if dice.chance(0.4) else kept


def _business_card(dice: Dice, writer: Person, firm: Firm) -> list[str]:
    full_name = f"{firm.name} {firm.legal_form}"
    lines = [f"{writer.title} {writer.name}".strip(), firm.role, "", full_name, f"{writer.street} | {writer.town}"]
    lines += (
        [f"T {writer.phone}", f"M {writer.email}", f"www.{firm.host}"]
        if dice.chance(0.5)
        else [f"Telefon: {writer.phone}", f"E-Mail: {writer.email}"]
    )
    return lines if dice.chance(0.7) else lines[3:]


def _legal(dice: Dice, language: str, firm: Firm) -> list[str]:
    court = firm.town.split(" ", 1)[1]
    register = (
        "HRA" if "KG" in firm.legal_form or "e.K." in firm.legal_form else "PR" if "PartG" in firm.legal_form else "HRB"
    )
    blocks = []
    if dice.chance(0.75):
        lead = "Geschäftsführer" if language == "de" or dice.chance(0.6) else "Managing Director"
        blocks.append(
            dice.pick(
                (
                    f"{firm.name} {firm.legal_form}, Sitz: {court}\nAmtsgericht {court}, {register} {dice.digits(6)}\n{lead}: {firm.director}\nUSt-IdNr.: DE999{dice.digits(6)}",
                    f"{lead}: {firm.director} | Registergericht: {court} | {register} {dice.digits(5)} | USt-IdNr. DE999{dice.digits(6)}",
                    f"Sitz der Gesellschaft: {court}, Registergericht Amtsgericht {court}, {register} {dice.digits(5)}; {lead}: {firm.director}",
                    f"{firm.name} {firm.legal_form}\n{lead}: {firm.director}\nSteuernummer: {dice.digits(2)}/{dice.digits(3)}/{dice.digits(5)}\n{register} {dice.digits(5)} {court}",
                )
            )
        )
    if dice.chance(0.5):
        blocks.append(dice.pick(_DISCLAIMERS[language]))
    return blocks
