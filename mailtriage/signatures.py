"""Finds where the client's words end: closing formulas, names, contact details, and imprints below them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailtriage.footers import is_disclaimer, is_legal, is_legal_line, paragraphs, speaks
from mailtriage.mail_lines import Line

_GREETS = (
    r"(?:(?:mit|with|in) )?(?:(?:den |my |our )?(?:freundlich(?:e[nmrs]?|st\w*)?|fr(?:eu)?ndl\.?|viele[nr]?|liebe[nr]?|beste[nrm]?|herzliche?[nrm]?|sch(?:ö|oe)ne[nr]?"
    r"|sonnige[nr]?|nette[nr]?|kollegiale[nr]?|vorzügliche[rn]?|ganz|all|many|kind(?:est)?|best|warm(?:est)?|friendly),? (?:(?:und|and|&) )?){0,3}"
)
_FORMULA = (
    rf"{_GREETS}(?:gr(?:ü|ue|u|ü)(?:ß|ss|s)(?:e|en)?|gr(?:ü|u)(?:ß|ss)le|regards|wishes|greetings|hochachtung)"
    r"|m\.? ?f\.? ?g\.?|[lvb]\.?g\.?|mit freundl\.? gr\.?|hochachtungsvoll|hochachtend|(?:yours |very )?(?:truly|sincerely|faithfully)(?: yours)?|yours|cheers|best|rgds\.?|br|kr"
    r"|salut|cordialement|saluti|bis (?:bald|dann|später)|ihr[e]? (?=[A-ZÄÖÜ])"
)
_THANKS = r"(?:(?:vielen|herzlichen|besten|lieben|many|kind)\s)?(?:dank|danke(?:sch(?:ö|oe)n)?|thanks|thank you|thx|merci)(?:\s(?:im voraus|vorab|schon mal|so much|very much|a lot|in advance|für ihre (?:hilfe|mühe|unterstützung)))?"
# Mit freundlichen Grüßen      Viele Grüße aus München      MfG Max Muster      Best regards,      Danke und Gruß
_CLOSING = re.compile(
    rf"[-–—*_ ]{{0,3}}(?:{_THANKS}(?:,| und| and| &|\s*[,!.])\s+)?(?:{_FORMULA})(?![\w])(?P<rest>.{{0,70}})$",
    re.IGNORECASE,
)
# Vielen Dank!      Danke im Voraus,
_SOFT_CLOSING = re.compile(rf"(?:{_THANKS})\s*[,.!]{{0,3}}$", re.IGNORECASE)
_CLOSING_PREFILTER = re.compile(
    r"gr[uü]|gru|regards|wishes|greeting|m\.?f\.?g|^[*_]?[lvbk]\.?[gr]\b|hochacht|sincerely|truly|faithfully|cheers|^[*]?best\b|yours|rgds|salut|cordial|^bis |^ihre? |gr\.",
    re.IGNORECASE,
)
_FROM_PLACE = re.compile(
    r"\s*(?:aus|vom|von|from|nach)\s+(?:(?:dem|der|den|the|sunny|sonnigen)\s+)?[^\W\d_]+(?:[ /-][A-ZÄÖÜ][^\W\d_]+){0,3}\s*[,.!]{0,2}$",
    re.IGNORECASE,
)
_NAME_TOKEN = re.compile(r"(?:[A-ZÄÖÜÉÈŁŠČĆŻ][\w'’.-]*|von|van|de|der|zu|und|and|&|\+|[a-z]\.)$")
_TRAILING = " ,.!*_()[]\"'/\\|-–—"

# Telefon: 089 123456      Mobil +49 170 1234567      max@example.org      www.example.org
_CONTACT = re.compile(
    r"[*_|• ]{0,3}(?:(?:tel(?:efon|\.|:)?|fon|phone|fax|telefax|mobil(?:e|telefon)?|handy|cell|e-?mail|mail|web(?:site)?|internet|homepage|skype|linkedin|xing|facebook|twitter|instagram|[tfmewp])\s?[.:/|]{1,3}\s?\S"
    r"|(?:tel|telefon|fon|fax|mobil|handy|phone|mobile)\b\.?\s*[+(\d]|<?(?:mailto:)?[^\s<>@]{1,64}@[^\s<>@]{1,100}>?(?:<mailto:[^<>]{1,160}>)?$|<?(?:https?://|www\.)\S{1,200}$|[a-z0-9-]{2,40}\.(?:de|com|at|ch|net|org|eu)(?:/\S{0,60})?$"
    r"|\(?\+?\d[\d\s()/.-]{6,22}$|\+\d{2,3}[\s(\d])",
    re.IGNORECASE,
)
# Hauptstraße 12      80331 München      D-80331 München      Postfach 10 20 30
_ADDRESS = re.compile(
    r"(?:[^\W\d_][\w .'-]{0,40}(?:stra(?:ß|ss)e|str\.?|weg|platz|allee|gasse|ring|damm|ufer|markt|hof|street|road|avenue|lane)\s*\d{1,4}\s?[a-z]?(?:\s?[-–/]\s?\d{1,4}\s?[a-z]?)?(?:[,|•·/ -]{1,4}.{0,50})?$"
    r"|(?:D|A|CH|DE|AT)?\s?-?\s?\d{4,5} [A-ZÄÖÜ][\w .()/-]{1,40}$|Postfach\b|P\.?O\.? Box)"
)
# Geschäftsführer      Leiterin Kundenservice      Muster GmbH      i. A. Eva Beispiel
_COMPANY = re.compile(
    r"\b(?:GmbH|mbH|AG|SE|KG|OHG|GbR|e\.\s?K\.|e\.\s?V\.|eG|UG|Ltd\.?|LLC|Inc\.?|PartG|LLP)\b|\b(?:Gesch(?:ä|ae)ftsf(?:ü|ue)hr|Leit(?:er|erin|ung)\b|Prokurist|Assisten[tz]|Rechtsanw|Steuerberat|Notar|Dr\.|Dipl|M\.Sc|B\.Sc|MBA"
    r"|Manager|Director|CEO|CFO|COO|CTO|Head of|Abteilung|Vertrieb|Consultant|Berater|Buchhaltung|Sachbearbeit|Kundenservice|Kundenbetreuung|Team\b|Accountant|Engineer|President|Partner)|^\s*(?:i\.\s?[AV]\.|ppa\.?)\s"
)
# Depotnummer 1234567890      Kunden-Nr.: 12345      IBAN: DE89 ...      geb. 01.02.1970: the client says who it is
_CLIENT_FACT = re.compile(
    r"(?:mein[e]? )?(?:(?:verrechnungs|giro|tagesgeld|referenz|haupt)?(?:depot|konto|kunden|kd|vertrags?|referenz|vorgangs|ticket|personen|mitglieds|auftrags|versicherungs|police[n]?)[- ]?(?:nummer|nr|no|id|inhaber\w*)?\b\.?"
    r"|aktenzeichen|az\b\.?|iban\b|wkn\b|isin\b|steuer-?(?:id|identifikationsnummer|nummer)|geburtsdatum|geb(?:oren)?\b\.?|customer (?:no|number|id)|account (?:no|number)|client (?:no|number|id)|user(?:name)?|zugangsnummer)"
    r"\s*(?:am|lautet|ist)?[\s:.#-]{0,4}.{0,40}\d",
    re.IGNORECASE,
)
# PS: Bitte auch den Sparplan anpassen.      Nachtrag: ...      Anlagen: Freistellungsauftrag.pdf
_POSTSCRIPT = re.compile(
    r"[*_]{0,2}(?:P\.?\s?P?\.?\s?S\b\.?|N\.?B\.|Nachtrag|Nachsatz|Ergänzung|Edit|Übrigens|Noch etwas|Noch eine|By the way|Btw)[*_]{0,2}\s*[:.,\-–]?",
    re.IGNORECASE,
)
_ATTACHMENT = re.compile(
    r"[*_]{0,2}(?:Anlagen?|Anhang|Anhänge|Anbei|Beilagen?|Enclosures?|Encl\.?|Attachments?|Attached)\b", re.IGNORECASE
)
_LIST_ITEM = re.compile(r"(?:[-*•–·+]|\d{1,2}[.)]|[a-z]\))\s+\S")
_REQUEST = re.compile(
    r"\?|\b(?:bitte|ich|wir|mir|mich|mein\w*|unser\w*|danke|nicht|kein\w*|noch|auch|wurde\w*|wird|werden|kann|könn\w*|möcht\w*|ist|sind|habe\w*|hat|hatte\w*|soll\w*|muss|müss\w*|rückruf|dringend|eilt|wann|warum|wie|was|wo"
    r"|please|i|i'm|my|me|we|need|want|not|is|are|was|can|could|would|will|have|has|urgent|asap|when|why|how|call)\b",
    re.IGNORECASE,
)
_RULE = re.compile(r"(?:[-_=*~#+─—–.•·ᐧ|]{2,}|[—–_ᐧ·•|])$")
_DELIMITER = re.compile(r"(?:--|—|__)$")
# siehe Signatur      Meine neue Adresse finden Sie unten
_REFERS_TO_SIGNATURE = re.compile(
    r"\bsignatur\b|\bsignature\b|(?:adresse|anschrift|telefonnummer|rufnummer|handynummer|kontaktdaten|mobilnummer|nummer|address|phone|contact details|number)\b[^.!?]{0,60}\b(?:siehe|unten|nachfolgend|nachstehend|below|folgt)\b"
    r"|\b(?:unten|nachfolgend|nachstehend|siehe|below)\b[^.!?]{0,40}(?:adresse|anschrift|telefonnummer|rufnummer|kontaktdaten|address|phone|contact details)",
    re.IGNORECASE,
)
# Meine neue Adresse lautet:
_INTRODUCES = re.compile(
    r":$|\b(?:adresse|anschrift|wohnhaft|umgezogen|umzug|erreich\w*|kontaktdaten|daten|lautet|address|moved|reach me|as follows)\b.{0,40}$",
    re.IGNORECASE,
)

LONGEST_SIGNATURE_LINE = 160


def cut_signatures(lines: Sequence[Line]) -> None:
    """Mark signatures, and imprints at the end of the client's own words."""
    own = [line for line in lines if line.own and not line.quoted]
    refers = any(len(line.text) < 400 and _REFERS_TO_SIGNATURE.search(line.text) for line in own)
    _cut_elements(lines)
    if not refers:
        _cut_below_delimiter(lines)
        _cut_below_closings(lines)
        _cut_contact_block(lines)
    _cut_legal_tail(lines)
    _cut_trailing_rules(lines)


def _cut_elements(lines: Sequence[Line]) -> None:
    """`<div class="gmail_signature">` and its kind: all of it but a postscript or a client's number."""
    for line in lines:
        if line.own and line.container and line.container[0] == "signature" and not _is_kept(line.text):
            line.cut = ("signature", line.container[1])


def _cut_below_delimiter(lines: Sequence[Line]) -> None:
    """`-- ` and what follows, unless somebody goes on speaking there."""
    for index, line in enumerate(lines):
        if not line.own or line.quoted or not _DELIMITER.match(line.text):
            continue
        block = [below for below in lines[index + 1 :] if below.own]
        canonical = line.text == "--" and line.end - line.start == 3
        if not block or len(block) > 40:
            continue
        spoken = [b for b in paragraphs(block) if _is_spoken(b)]
        if spoken and not canonical:
            continue
        line.cut = ("signature", "delimiter")
        _cut_signature(lines, index + 1, "delimiter", generous=True)
        return


def _is_spoken(block: Sequence[Line]) -> bool:
    if is_disclaimer(block) or is_legal(block):
        return False
    return any(_POSTSCRIPT.match(line.text) or (is_prose(line.text) and speaks(line.text)) for line in block)


def _cut_below_closings(lines: Sequence[Line]) -> None:
    for index, line in enumerate(lines):
        if not line.own or line.quoted or len(line.text) > LONGEST_SIGNATURE_LINE:
            continue
        if is_closing(line.text):
            line.cut = ("signature", "closing")
            _cut_signature(lines, index + 1, "closing")
        elif _SOFT_CLOSING.match(line.text) and _ends_with_name(lines, index + 1):
            _cut_signature(lines, index + 1, "closing")


def is_closing(text: str) -> bool:
    """Whether a line is a closing formula, alone or with a name or a place."""
    if not _CLOSING_PREFILTER.search(text):
        return False
    match = _CLOSING.match(text)
    if match is None:
        return False
    rest = match["rest"].strip(_TRAILING)
    return not rest or is_name(rest) or _FROM_PLACE.match(match["rest"]) is not None or is_closing(rest)


def is_name(text: str) -> bool:
    """Whether a text could be a person's name, or a couple's: up to six capitalised words."""
    text = text.strip(_TRAILING)
    if not text or len(text) > 60 or any(character.isdigit() for character in text):
        return False
    tokens = text.replace(",", " ").replace("/", " ").split()
    return len(tokens) <= 6 and all(_NAME_TOKEN.match(token.strip("()\"',")) for token in tokens)


def is_prose(text: str) -> bool:
    """Whether a line reads like a sentence rather than like a detail of a signature."""
    words = text.split()
    if _LIST_ITEM.match(text) and len(words) > 1:
        return True
    return (len(words) >= 3 and _REQUEST.search(text) is not None) or "?" in text or len(words) > 12


def is_detail(text: str) -> bool:
    """Whether a line is a contact, address, company or title line."""
    return (
        _CONTACT.match(text) is not None
        or _ADDRESS.match(text) is not None
        or (len(text.split()) <= 9 and _COMPANY.search(text) is not None and not speaks(text))
    )


def _is_kept(text: str) -> bool:
    return (
        _POSTSCRIPT.match(text) is not None
        or _ATTACHMENT.match(text) is not None
        or _CLIENT_FACT.match(text) is not None
    )


def _ends_with_name(lines: Sequence[Line], start: int) -> bool:
    """Whether only a name, perhaps with details, is left below a `Vielen Dank`."""
    left = [line.text for line in lines[start:] if line.own]
    return (
        0 < len(left) <= 12
        and is_name(left[0])
        and all(is_name(t) or is_detail(t) or is_legal_line(t) for t in left[1:])
    )


def _cut_signature(lines: Sequence[Line], start: int, rule: str, generous: bool = False) -> None:
    """Cut name, contact and company lines from `start` on; stop where the client goes on.

    `generous`: below a delimiter, a short line of any sort belongs to the signature.
    """
    block: list[Line] = []
    seen = 0  # paragraphs of the signature so far
    for line in [*lines[start:], None]:
        if line is not None and line.own and not line.quoted:
            block.append(line)
            continue
        if not block:
            continue
        if not _cut_paragraph(block, rule, first=seen < 2, generous=generous):
            return
        seen += 1
        block = []


def _cut_paragraph(block: Sequence[Line], rule: str, first: bool, generous: bool) -> bool:
    """Cut a paragraph of a signature line by line; returns whether the signature may go on below it."""
    if is_disclaimer(block):
        _cut(block, ("disclaimer", "disclaimer"))
        return True
    if is_legal(block):
        _cut([line for line in block if not _POSTSCRIPT.match(line.text)], ("legal_footer", "imprint"))
        return True
    texts = [line.text for line in block]
    has_details = any(is_detail(text) or is_legal_line(text) for text in texts)
    for line in block:
        text = line.text
        if _POSTSCRIPT.match(text) or is_closing(text):
            return False
        if _is_kept(text):
            continue
        if is_legal_line(text):
            line.cut = ("legal_footer", "imprint")
        elif len(text) > LONGEST_SIGNATURE_LINE:
            return False
        elif is_detail(text) or _RULE.match(text) or (is_name(text) and (first or has_details or generous)):
            line.cut = ("signature", rule)
        elif is_prose(text) and not (generous and not speaks(text)):
            return False
        elif has_details or generous or (first and len(text.split()) <= 2):
            line.cut = ("signature", rule)
        else:
            return False
    return True


def _cut(block: Sequence[Line], cut: tuple[str, str]) -> None:
    for line in block:
        line.cut = cut


def _cut_contact_block(lines: Sequence[Line]) -> None:
    """A last paragraph that is nothing but a name and at least two contact or address lines."""
    blocks = list(paragraphs([line for line in lines if not line.quoted]))
    if len(blocks) < 2:
        return
    block, before = blocks[-1], blocks[-2][-1].text
    texts = [line.text for line in block if len(line.text) <= LONGEST_SIGNATURE_LINE]
    details = sum(is_detail(text) for text in texts)
    contacts = sum(_CONTACT.match(text) is not None for text in texts)
    plain = all(is_detail(t) or is_name(t) or is_legal_line(t) or _is_kept(t) or _RULE.match(t) for t in texts)
    if (
        len(texts) < len(block)
        or details < 2
        or not contacts
        or not plain
        or not is_name(texts[0])
        or _INTRODUCES.search(before[-120:])
    ):
        return
    _cut([line for line in block if not _is_kept(line.text)], ("signature", "contact_block"))


def _cut_legal_tail(lines: Sequence[Line]) -> None:
    """Imprints are cut only from the end of the client's words upwards."""
    blocks = list(paragraphs([line for line in lines if not line.quoted]))
    for position in range(len(blocks) - 1, -1, -1):
        block = blocks[position]
        before = blocks[position - 1][-1].text if position else ""
        if before.endswith(":") or not is_legal(block):
            return
        if all(is_legal_line(line.text) or is_detail(line.text) or is_name(line.text) for line in block):
            _cut(block, ("legal_footer", "imprint"))
        else:
            _cut([line for line in block if is_legal_line(line.text)], ("legal_footer", "imprint"))
            return


def _cut_trailing_rules(lines: Sequence[Line]) -> None:
    """Lines such as `____` that part the client's words from nothing."""
    for line in reversed(lines):
        if line.cut is not None or not line.text:
            continue
        if not _RULE.match(line.text) or line.quoted:
            return
        line.cut = ("signature", "rule")
