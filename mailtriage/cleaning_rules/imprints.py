"""Finds the facts that a company must state below its letters: register, tax number, directors, seat."""

from __future__ import annotations

from collections.abc import Sequence

from mailtriage.cleaning_rules.mail_lines import Line
from mailtriage.cleaning_rules.patterns import mentioned, pattern

# Each fact with words of which it has one, in small letters: most lines have none, and need no expression.
_FEATURES = (
    # HRB 123456      HRA 99      HRB-Nr.: 4711
    (("hra", "hrb", "hr a", "hr b", "hr\t", "hr\xa0"), pattern(r"\bHR\s?[AB][\s:.-]{0,3}(?:Nr\.?:?\s*)?\d")),
    # Amtsgericht München      Registergericht: Frankfurt am Main      Handelsregister: B 1234
    (
        ("gericht", "register", "firmenbuch", "companies house"),
        pattern(
            r"\b(?:Amtsgericht|Registergericht|Handelsregister|Firmenbuch|Genossenschaftsregister|Companies House)",
            flags=0,
        ),
    ),
    # USt-IdNr.: DE123456789      Steuer-Nr. 143/123/12345      VAT No. GB123456789
    (
        (
            "ustid",
            "ust id",
            "ust.",
            "ust-",
            "ust\xa0",
            "umsatzsteuer",
            "uid",
            "vat",
            "steuer-n",
            "steuern",
            "st.-nr",
            "st-nr",
            "st.nr",
            "stnr",
        ),
        pattern(r"\b(?:USt\.?-?\s?Id|Umsatzsteuer-?I|UID\b|VAT\b|Steuer-?(?:Nr|nummer)|St\.?-?Nr)"),
    ),
    # Geschäftsführer: Max Muster      Vorstand: Dr. Eva Beispiel (Vorsitzende)      Managing Directors: ...
    (
        ("ftsf", "vorstand", "vors.", "aufsichtsrat", "verwaltungsrat", "vertretungs", "director", "board"),
        pattern(
            r"\b(?:Gesch(?:ä|ae)ftsf(?:ü|ue)hr(?:er|erin|ung|ende\w{0,2})|Vorstand\w{0,20}|Vors\. d\. \w{2,20}"
            r"|Aufsichtsrat\w{0,20}|Verwaltungsrat"
            r"|Vertretungsberechtigt\w{0,3}|Managing Directors?|Board of \w{1,20}|Supervisory Board"
            r"|Executive Board)\s?(?:\([^()]{1,40}\))?\s?:"
        ),
    ),
    # Sitz der Gesellschaft: München      Registered office: 1 High Street, London      Company No. 123456
    (
        ("sitz:", "sitz :", "sitz und reg", "sitz der ges", "firmensitz", "registered", "company"),
        pattern(
            r"\b(?:Sitz(?: und Registergericht)?\s?:|Sitz der Gesellschaft|Firmensitz|Registered (?:office|in)"
            r"|Company (?:No|number|registration))"
        ),
    ),
)
# Bankverbindung: Musterbank, IBAN DE..., BIC MUSTDEFF      Gläubiger-ID DE98ZZZ09999999999
_BANK = (
    ("bankverbindung", "bic", "swift", "gläubiger"),
    pattern(r"\b(?:Bankverbindung|BIC\b|SWIFT\b|Gläubiger-?(?:ID|Identifikation))"),
)
_ALL_FEATURES = (*_FEATURES, _BANK)
# Steuernummer 143/123/12345: everybody has one
_PRIVATE = pattern(r"\bSt(?:euer)?\.?-?\s?(?:Nr\b|nummer)")
# Bitte ändern Sie die Firmendaten.      Wir haben einen neuen Geschäftsführer.      our company details
_COMPANY_AS_TOPIC = pattern(
    r"\b(?:neue|geänderte|aktuelle|folgende)n? \w{0,12}(?:daten|angaben)\b"
    r"|\b(?:angaben|daten) (?:zu|zur|zum|der|des|unserer?|meiner?) (?:firma|gesellschaft|unternehmens?)\b"
    r"|\b(?:firmen|unternehmens|gesellschafts|stamm|register|handelsregister)(?:daten|eintrag\w*|auszug\w*|angaben"
    r"|namen?)\b"
    r"|\bgesch(?:ä|ae)ftsf(?:ü|ue)hr\w+|\bfirmierung|\bumfirm\w+|\bhandelsregister|\bimpressum|\brechtsform|\bfirmensitz"
    r"|\bbankverbindung|\bkontoverbindung|\bcompany (?:data|details|name|register)"
    r"|\b(?:managing )?director\b|\bimprint\b",
)
# in Ihrem Impressum steht HRB 99887      unsere neue USt-IdNr. lautet DE123456789
_SPEAKS = pattern(
    r"\b(?:ich|wir|mir|mich|mein(?:e[mnrs]?)?|unser(?:e[mnrs]?)?|uns|ihnen|ihre?[mnrs]?|sie|bitte|habe|haben|steht"
    r"|lautet|möchten?|moechten?|warum|wie|können"
    r"|(?-i:I)|my|we|our|you|your|please|why|how|is|are)\b"
)


def speaks(text: str) -> bool:
    """Whether somebody says `I`, `you` or `please`."""
    return _SPEAKS.search(text) is not None


def features(text: str) -> int:
    """How many different facts of an imprint a text holds."""
    lowered = text.lower()
    found = 0
    for words, fact in _ALL_FEATURES:
        if mentioned(lowered, words) and fact.search(text):
            found += 1
    return found


def names_company(text: str) -> bool:
    """Whether a line states a fact that only companies have: a bank account has everybody."""
    text = _PRIVATE.sub("", text)
    lowered = text.lower()
    return any(mentioned(lowered, words) and fact.search(text) for words, fact in _FEATURES)


def is_imprint_line(text: str) -> bool:
    """Whether a line states a fact of an imprint, and nobody speaks in it."""
    return len(text) < 400 and features(text) > 0 and not speaks(text)


def is_imprint(block: Sequence[Line]) -> bool:
    """Whether a paragraph states at least two facts of an imprint, and nobody speaks in it."""
    text = " ".join(line.text for line in block[:20])[:3000]
    return features(text) >= 2 and not speaks(text)


def speaks_of_company(text: str) -> bool:
    """Whether a line speaks of what stands in an imprint, or of an account."""
    return _COMPANY_AS_TOPIC.search(text) is not None


def cut_imprint(block: Sequence[Line]) -> None:
    """Mark the lines of an imprint."""
    for line in block:
        line.cut = ("legal_footer", "imprint")
