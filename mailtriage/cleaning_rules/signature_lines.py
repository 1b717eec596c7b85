"""Tells the lines of a signature from the client's words: contact details, addresses, titles, and what must be kept."""

from __future__ import annotations

from mailtriage.cleaning_rules.closings import is_name
from mailtriage.cleaning_rules.imprints import is_imprint_line, speaks
from mailtriage.cleaning_rules.patterns import mentioned, pattern

_ADDRESS_OR_SITE = r"<?(?:mailto:)?[^\s<>@]{1,64}@[^\s<>@]{1,100}>?(?:\s?<mailto:[^<>]{1,160}>)?"
_CONTACT = pattern(
    # Telefon: 089 123456      Mobil.: +49 170 1234567      E-Mail: max@example.org      T: 089 123456
    r"[*_|• ]{0,3}(?:tel(?:efon)?|fon|phone|fax|telefax|mobil(?:e|telefon)?|handy|cell|e-?mail|mail|web(?:site)?"
    r"|internet|homepage|skype|linkedin|xing|[tfmew])"
    r"\s?[.:/|]{1,3}\s?(?=\S{3})[^?!]{0,80}$",
    # Tel 089 123456      Mobil +49 170 1234567      T 030 / 231 25625      M max@example.org
    rf"[tmfe] {_ADDRESS_OR_SITE}$",
    r"[*_|• ]{0,3}(?:tel|telefon|fon|fax|mobil|handy|phone|mobile|[tmf](?= [+(0]))\b\.?\s?"
    r"[+(\d][\d\s()/.+-]{5,25}.{0,30}$",
    # max@example.org      <max@example.org><mailto:max@example.org>
    rf"{_ADDRESS_OR_SITE}$",
    # www.example.org      https://example.org      muster-gmbh.de
    r"<?(?:https?://|www\.)\S{1,200}$|[a-z0-9-]{2,40}\.(?:de|com|at|ch|net|org|eu)(?:/\S{0,60})?$",
    # +49 89 123456-78      089 / 123 45 67      (0170) 1234567
    r"(?:\+\d{1,3}|\(?0\d{1,5}\)?)[\s/.()-]{0,3}\d[\d\s()/.-]{4,18}$",
    # +49 89 123456 | max@example.org | www.example.org
    rf"(?=[^|•·]{{0,80}}[|•·])[^?!]{{0,100}}(?:{_ADDRESS_OR_SITE}|www\.\S{{3,60}}"
    rf"|\+?\d[\d\s()/.-]{{6,20}})[^?!]{{0,80}}$",
)
# https://example.org      www.example.org/kurs
_LINK = pattern(r"<?(?:https?://|www\.)\S{1,200}$|[a-z0-9-]{2,40}\.(?:de|com|at|ch|net|org|eu)(?:/\S{0,60})?$")
_PLACE = pattern(
    # Hauptstraße 12      Am Markt 3a, 80331 München      221B Baker Street
    r"[^\W\d_][\w .'-]{0,40}(?:stra(?:ß|ss)e|str\.?|weg|platz|allee|gasse|ring|damm|ufer|markt|hof|chaussee|stieg"
    r"|berg|street|road|avenue|lane)"
    r"\s?\d{1,4}\s?[a-z]?(?:\s?[-–/]\s?\d{1,4}\s?[a-z]?)?(?:[,|•· /-]{1,4}[^?!]{0,50})?$",
    # 80331 München      D-80331 München      CH-8001 Zürich
    r"(?:(?:D|A|CH|DE|AT)\s?-\s?)?\d{4,5} [A-ZÄÖÜ][\w .()/-]{1,40}$",
    # Postfach 10 20 30      Deutschland
    r"(?:Postfach|P\.?O\.? Box) [\d ]{2,12}$|(?:Deutschland|Germany|Österreich|Schweiz|Switzerland|Austria)$",
    flags=0,
)
_POSITION = pattern(
    # Muster GmbH      Beispiel & Partner AG
    r"\b(?:GmbH|mbH|AG|SE|KG|OHG|GbR|e\.\s?K\.|e\.\s?V\.|eG|UG|Ltd\.?|LLC|Inc\.?|PartG|LLP)(?!\w)",
    # Geschäftsführer      Leiterin Buchhaltung      Dipl.-Kfm.      Rechtsanwältin
    r"\b(?:Gesch(?:ä|ae)ftsf(?:ü|ue)hr|Leit(?:er|erin|ung)\b|Prokurist|Assisten[tz]|Rechtsanw|Steuerberat|Notar|Dr\."
    r"|Dipl|M\.Sc|B\.Sc|MBA\b"
    r"|Manager|Director|CEO|CFO|COO|CTO|Head of|Abteilung|Vertrieb|Consultant|Berater|Buchhaltung|Sachbearbeit"
    r"|Kundenservice|Kundenbetreuung"
    r"|Accountant|Engineer|President|Partner\b)",
    # i. A. Eva Beispiel      ppa. Max Muster
    r"^\s*(?:i\.\s?[AV]\.|ppa\.?)\s",
    flags=0,
)
_CLIENT_FACT = pattern(
    # Depotnummer 1234567890      Kunden-Nr.: 12345      Mein Konto: 123456      Kd.-Nr. 4711
    r"(?:(?:mein|unser)e? )?(?:(?:verrechnungs|giro|tagesgeld|haupt|wertpapier)?(?:depot|konto)|kunden|kd\.?"
    r"|vertrags?|referenz|vorgangs|ticket|personen|mitglieds"
    r"|auftrags|order|policen?|versicherungs|zugangs|filial)[- ]?(?:nummern?|nr|no|id|inhaber\w{0,3}"
    r"|verbindung)?\b\.?\s?(?:lautet|ist)?[\s:.#-]{0,4}[^\d]{0,25}\d",
    # Aktenzeichen: 12/345      IBAN DE89 3704 0044 0532 0130 00      Steuer-ID: 12 345 678 901      geb. 01.02.1970
    r"(?:aktenzeichen|az\b\.?|ihr zeichen|iban|wkn|isin|steuer-?(?:id|identifikationsnummer|nr|nummer)|geburtsdatum"
    r"|geb\.?-?datum|geburtstag|dob|date of birth|born"
    r"|geb(?:oren)?\b\.?(?: am)?)[\s:.#-]{0,4}[^\d]{0,15}\d",
    # Customer number: 12345      Account no. 12345
    r"(?:my )?(?:customer|account|client|policy|reference|ref|user|securities account|custody account)[- ]?(?:no"
    r"|number|id)?\b\.?[\s:.#-]{0,4}[^\d]{0,15}\d",
)
# Max Muster | Depot 1234567890      Tel. 089 123456, Kundennr. 4711123      the number follows its name at once
_CLIENT_NUMBER = pattern(
    r"(?<!\w)(?:(?:verrechnungs|giro|tagesgeld|haupt|wertpapier)?(?:depot|konto)|(?:kunden|kd\.?|vertrags?|personen"
    r"|mitglieds|policen?|versicherungs)(?=[- ]?(?:nummer|nr))|(?:customer|client|account)(?= (?:no|number)))"
    r"[- ]?(?:nummer|nr|number|no)?\b\.?[\s:.#-]{0,3}\d{4}",
    r"\bIBAN\b[\s:.]{0,3}[A-Z]{2}\d\d",
)
# Max Muster (Erbe von Eva Muster)      als Betreuerin von Eva Muster: on whose behalf somebody speaks
_ROLE = pattern(
    r"\b(?:(?:allein|mit)?erb(?:e|in|en|engemeinschaft)|bevollmächtigte[rn]?|vollmacht(?:geber|nehmer)(?:in)?|vorsorgevollmacht"
    r"|(?:general|in) ?vollmacht|betreuer(?:in)?|vormund|witwer?|gesetzliche[rn]? vertreter(?:in)?"
    r"|testamentsvollstrecker(?:in)?|nachlasspfleger(?:in)?"
    r"|im namen|executor|power of attorney|on behalf of|legal guardian)\b",
)
# Frist: 31.03.2024      Eilt!      Termin ist der 5. April      Dringend
_URGENCY = pattern(
    r"[*_!]{0,3}(?:eilt|eilig|sehr eilig|dringend|frist|termin|stichtag|wichtig|deadline|urgent|asap)\b(?! gmbh)",
)
# ab 17 Uhr erreichbar      Rückruf bitte mobil      call me after 5 pm
_WHEN_TO_CALL = pattern(
    r"\berreichbar\b|\brückruf|\b(?:ab|vor|nach|bis) \d{1,2}(?:[:.]\d\d)? ?uhr\b|\b(?:call|reach) me\b",
)
# neue Adresse:      Neue Handynummer: 0170 1234567      old address:
_CHANGED = pattern(
    r"(?:meine |my |our |unsere )?(?:neue?[rns]?|alte?[rns]?|bisherige?[rns]?|künftige?[rns]?|new|old|previous|former)"
    r" (?:\w{0,12}adresse|anschrift|\w{0,12}nummer|telefon\w*|handy\w*|mobil\w*|e-?mail\w*|name|konto\w*"
    r"|\w{0,5}bankverbindung|iban|address|(?:phone |mobile )?number|phone|account)\b",
)
_LABELLED = pattern(r"[^\W\d_][\w .-]{1,25}:\s{0,3}\S")
_POSTSCRIPT = pattern(
    # PS: Bitte auch den Sparplan anpassen.      P.S. Mein Name ist jetzt Muster.      NB: ...      Nachtrag: ...
    r"[*_]{0,2}(?:P\.?\s?P?\.?\s?S\b\.?|N\.?B\.?:|Nachtrag|Nachsatz|Ergänzung|Edit:|Übrigens|Noch etwas|Noch eine"
    r"|Noch was|Und noch|Ach ja|Ach so|Außerdem|Zusätzlich|By the way|Btw|One more thing)",
)
_ATTACHMENT = pattern(
    # Anlagen: Freistellungsauftrag.pdf      Anbei die Kopie      Enclosures: 2
    r"[*_]{0,2}(?:Anlagen?|Anhang|Anhänge|Anbei|Beilagen?|Enclosures?|Encl\.|Attachments?|Attached)\b",
)
_LIST_ITEM = pattern(r"(?:[-*•–·+]|\d{1,2}[.)]|[a-z]\))\s+\S")
_SENTENCE = pattern(
    r"\?",
    r"\b(?:bitte|ich|wir|mir|mich|meine?[mnrs]?|unsere?[mnrs]?|danke|nicht|keine?[mnrs]?|noch|auch|wurden?|wird"
    r"|werden|kann|könn\w{0,3}|möcht\w{0,3}|moecht\w{0,3}"
    r"|ist|sind|habe|haben|hat|hatte\w?|soll\w{0,3}|muss|müss\w{0,2}|rückruf|dringend|eilt|wann|warum|wie|was|wo"
    r"|dass|weil|wenn|falls|damit)\b",
    r"\b(?:please|(?-i:I)|i'm|my|me|we|need|want|not|is|are|was|can|could|would|will|have|has|urgent|asap|when|why|how"
    r"|call|because|if)\b",
)


_KEPT = pattern(_POSTSCRIPT.pattern, _CHANGED.pattern, _ATTACHMENT.pattern, _CLIENT_FACT.pattern, _URGENCY.pattern)
_KEPT_INSIDE = (_CLIENT_NUMBER, _ROLE, _WHEN_TO_CALL)
# One of these is in every line in which one of them finds something.
_TELLING = (
    "depot", "konto", "kunden", "kd", "vertrag", "person", "mitglied", "police", "versicherung", "customer", "client",
    "account", "iban", "erb", "vollm", "betreuer", "vormund", "witwe", "vertreter", "vollstrecker", "pfleger",
    "im namen", "executor", "attorney", "behalf", "guardian", "erreichbar", "rückruf", "uhr", "call me", "reach me",
)  # fmt: skip


def is_contact(text: str) -> bool:
    """Whether a line is a phone number, an address on the net, or both."""
    return _CONTACT.match(text) is not None


def is_link(text: str) -> bool:
    """Whether a line is an address on the web, which may as well be something to look at."""
    return _LINK.match(text) is not None


def is_detail(text: str) -> bool:
    """Whether a line is a contact, address, company or title line."""
    return is_contact(text) or _PLACE.match(text) is not None or is_company(text)


def is_company(text: str) -> bool:
    """Whether a line is a company or a title."""
    return len(text.split()) <= 9 and _POSITION.search(text) is not None and not speaks(text)


def is_signature_line(text: str) -> bool:
    """Whether a line could stand in a signature that has no delimiter."""
    return is_name(text) or is_detail(text) or is_imprint_line(text)


def is_kept(text: str) -> bool:
    """Whether a line is for the reader even within a signature: postscript, attachment, a number of the client's."""
    if _KEPT.match(text):
        return True
    return bool(mentioned(text.lower(), _TELLING)) and any(kept.search(text) for kept in _KEPT_INSIDE)


def says_when_to_call(text: str) -> bool:
    """Whether a line says when to call, so that the number above it is for the reader, too."""
    return _WHEN_TO_CALL.search(text) is not None


def is_labelled(text: str) -> bool:
    """Whether a line names something that is no way to reach somebody: `Kontoinhaber: Max Muster`."""
    return _LABELLED.match(text) is not None and not is_contact(text)


def is_postscript(text: str) -> bool:
    """Whether a line begins with `PS` or its like, or with what has changed: the client goes on."""
    return _POSTSCRIPT.match(text) is not None or _CHANGED.match(text) is not None


def is_prose(text: str) -> bool:
    """Whether a line reads like a sentence or a list rather than like a detail of a signature."""
    words = len(text.split())
    if _LIST_ITEM.match(text) and words > 1:
        return True
    return (words >= 2 and _SENTENCE.search(text) is not None) or words > 12
