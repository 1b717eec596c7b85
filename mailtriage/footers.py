"""Finds what programs and companies append to a mail: app footers, virus scanners, disclaimers, imprints, opt-outs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mailtriage.mail_lines import Line

_DEVICE = (
    r"iPhone|iPad|iPod|iOS|Handy|Smartphone|Smart-?phone|Mobiltelefon|Mobilger(?:ä|ae)t|mobilen? Ger(?:ä|ae)t|Tablet|Telefon|Android\S*"
    r"|Samsung\S*|Galaxy\S*|Huawei\S*|Xiaomi\S*|Redmi\S*|Pixel\S*|HTC\S*|Nokia\S*|Sony\S*|Xperia\S*|Motorola\S*|Fairphone|OnePlus\S*"
    r"|BlackBerry\S*|Windows Phone|Mac(?:Book)?\S*|mobile|mobile (?:device|phone)|cell(?:phone)?|phone|TI-85|Alcatel\S*|Lumia\S*"
    r"|Outlook|GMX|WEB\.DE|web\.de|freenet|T-Online|Telekom|Yahoo\S*|AOL|Proton\S*|Tutanota|Tuta|K-9\S*|Spark|Airmail|Mailbox|Mailspring"
    r"|Windows(?:[- ]?1[01])?[- ]?Mail|Mail (?:für|for) Windows\S*|MailDroid|BlueMail|TypeApp|Canary|Thunderbird|eM Client|Posteo|mailbox\.org"
    r"|Sparrow|Acompli|Nine|Gmail|Apple|Vodafone|mein(?:em)? Mac|Surface|Verizon\S*|myMail|Edison\S*|Superhuman|Polymail|Newton\S*|Zoho\S*"
)
# Gesendet von meinem iPhone      Von meinem Samsung Galaxy Smartphone gesendet      Sent from Yahoo Mail on Android
# Gesendet mit der GMX Mail App      Diese Nachricht wurde von meinem Android-Mobiltelefon mit K-9 Mail gesendet.
# Get Outlook for iOS<https://aka.ms/o0ukef>      Holen Sie sich Outlook für Android      Von meinem iPad versendet
_APP_FOOTER = re.compile(
    r"[-–—_* (]{0,6}(?:"
    rf"(?:gesendet|verschickt|versendet|geschrieben|abgeschickt|sent|written|typed) (?:with|via|from|mit|von|vom|über|ueber|per|aus)"
    rf" (?:(?:mein(?:em|er|en)?|der|dem|my|an?|the|mobile[nr]?|neuen|kostenlosen|sicheren?|secure) ){{0,3}}(?:\S{{1,20}} ){{0,2}}?(?:{_DEVICE})(?![\w-]).{{0,60}}"
    rf"|von (?:meinem|unterwegs|mobil|einem) ?(?:\S{{1,25}} ){{0,4}}?(?:gesendet|verschickt|versendet|geschrieben)"
    rf"|(?:diese |this )?(?:nachricht|e-?mail|mail|message) (?:wurde|was) (?:\S{{1,20}} ){{0,3}}?(?:{_DEVICE})(?![\w-]).{{0,60}}?(?:gesendet|verschickt|versendet|geschrieben|sent)?"
    r"|(?:get|holen sie sich|hol dir|laden sie) outlook (?:for|für|fuer) .{1,60}"
    r"|(?:from|von) (?:my|meinem) (?:mobile|iphone|ipad|blackberry|handy|android)(?: \w{1,12})?"
    r"|sent via (?:mobile|the .{1,30})|envoyé (?:depuis|de) mon .{1,30}|sendt fra min .{1,20}|inviato da(?:l mio)? .{1,30}|enviado (?:desde|do) m.{1,30}"
    r"|verstuurd vanaf mijn .{1,20}|skickat från min .{1,20}|wysłane z .{1,30}"
    r")[ .!)*_]{0,4}(?:<[^<>\s]{4,200}>|\(https?://[^()\s]{4,200}\)|\[https?://[^\[\]\s]{4,200}\])?[ .*_]{0,3}$",
    re.IGNORECASE,
)
# Gesendet von meinem Konto wurden 500 EUR: an account is no device
_NO_APP_FOOTER = re.compile(
    r"\b(?:wurden?|ist|sind|habe|hatte|konto|depot|bank|fax|brief|einschreiben|post|desk|büro|is|was|were|have|but)\b",
    re.IGNORECASE,
)
_APP_FOOTER_PREFILTER = re.compile(
    r"gesend|sendet|schickt|sent\b|outlook|from my|von meinem|envoy|sendt|inviat|enviad|verstuurd|skickat|wysł|geschrieben",
    re.IGNORECASE,
)

# Diese E-Mail wurde von Avast Antivirus-Software auf Viren geprüft.      Virenfrei. www.avast.com
# This email has been checked for viruses by AVG.      https://www.avast.com/antivirus
_SCANNER = re.compile(
    r"(?:diese (?:e-?mail|nachricht|mail) wurde (?:von|mit|durch) .{0,60}(?:auf viren|virus|gepr(?:ü|ue)ft|gescannt)"
    r"|(?:this |the )?(?:e-?mail|message) (?:has been|was|is) (?:checked|scanned|virus).{0,80}(?:virus|avast|avg|mcafee|norton|kaspersky|sophos)"
    r"|viren-?frei\.?.{0,40}$|virus-?free\.?.{0,40}$|(?:<?https?://)?(?:www\.)?avast\.com/?\S{0,100}$|(?:von|by) avast\S* (?:gepr|checked).{0,40}$"
    r"|(?:gepr(?:ü|ue)ft|checked|scanned) (?:von|by|durch) (?:avast|avg|mcafee|kaspersky|sophos|eset|g ?data|avira).{0,60}$"
    r"|(?:keine? viren|no virus(?:es)?) (?:gefunden|found).{0,80}$)",
    re.IGNORECASE,
)

# Diese E-Mail enthält vertrauliche und/oder rechtlich geschützte Informationen. Wenn Sie nicht der richtige Adressat ...
# This e-mail and any attachments are confidential ...      Bitte denken Sie an die Umwelt, bevor Sie diese E-Mail drucken.
_DISCLAIMER_START = re.compile(
    r"[*_#=\-\s(]{0,8}(?:(?:wichtiger |rechtlicher |allgemeiner )?(?:hinweis|haftungsausschluss|haftungsausschluß|disclaimer|vertraulichkeitshinweis"
    r"|datenschutzhinweise?|confidentiality(?: notice)?|important notice|legal notice|notice|caution|achtung|important|wichtig|confidential"
    r"|vertraulich|privileged)\b|(?:diese|die|der inhalt dieser|die (?:information|angaben)(?:en)? in dieser|die in dieser|alle in dieser)\b.{0,30}"
    r"(?:e-?mail|mail|nachricht|mitteilung|übertragung)|(?:this|the (?:information|content|contents)(?: contained)? (?:in|of) this|any|the contents?)\b.{0,30}"
    r"(?:e-?mail|message|communication|transmission)|(?:bitte |please |think |denken? ).{0,40}(?:umwelt|environment|before (?:you )?print|drucken|ausdruck)"
    r"|(?:if you (?:are|have) (?:not |received )|(?:sollten|falls|wenn|sind) sie .{0,30}(?:nicht der|irrtümlich|irrtuemlich|fälschlich))"
    r"|(?:internet[- ]?)?e-?mails? (?:können|koennen|kann|cannot|are not|is not)|(?:informationen|hinweise?) (?:zum|zur) (?:umgang|datenschutz|verarbeitung))",
    re.IGNORECASE,
)
_DISCLAIMER_WORDS = re.compile(
    r"vertraulich|(?:rechtlich )?geschützt|geschuetzt|nicht der (?:richtige|beabsichtigte|vorgesehene)|irrtümlich|irrtuemlich|unbefugt|ausschlie(?:ß|ss)lich für d"
    r"|adressat|empfänger|empfaenger|vernichten|löschen sie|loeschen sie|nicht gestattet|haftung|umwelt|rechtsverbindlich|weitergabe|datenschutz"
    r"|confidential|privileged|intended (?:recipient|only|solely|for)|unauthori[sz]ed|delete (?:it|this)|disclos|liab|environment|notify the sender"
    r"|viren|virus|manipul|verfälscht|personenbezogen|art\. 13|dsgvo|gdpr|intended",
    re.IGNORECASE,
)
# [EXTERN] Diese E-Mail stammt von einem externen Absender.      CAUTION: This email originated from outside
_BANNER = re.compile(
    r"[\[*#!<⚠️\s]{0,6}(?:(?:extern(?:e|al)?(?: e-?mail)?|caution|achtung|warnung|warning|vorsicht)\b[\]:!*\s]{0,6}.{0,20})?"
    r"(?:(?:diese|this|die) (?:e-?mail|nachricht|message|mail) (?:stammt|kommt|wurde|originated|came|comes|is|was)\b.{0,40}(?:extern|au(?:ß|ss)erhalb|outside|external)"
    r"|sie erhalten nicht (?:oft|häufig) e-?mails? von|you don'?t often get e-?mail from|some people who received this message)",
    re.IGNORECASE,
)

_LEGAL_FEATURES = (
    # HRB 123456      HRA 99
    re.compile(r"\bHR\s?[AB][\s:.-]*(?:Nr\.?\s*)?\d", re.IGNORECASE),
    # Amtsgericht München      Registergericht: Frankfurt am Main      Handelsregister: B 1234
    re.compile(
        r"\b(?:Amtsgericht|Registergericht|Handelsregister|AG [A-ZÄÖÜ][a-zäöü]+,? HR|Firmenbuch|Genossenschaftsregister|Companies House)"
    ),
    # USt-IdNr.: DE123456789      Steuer-Nr. 143/123/12345      VAT No. GB123456789
    re.compile(r"\b(?:USt\.?-?\s?Id|Umsatzsteuer-?I|UID\b|VAT\b|Steuer-?(?:Nr|nummer)|St\.?-?Nr)", re.IGNORECASE),
    # Geschäftsführer: Max Muster      Vorstand: Dr. Eva Beispiel (Vorsitzende)      Aufsichtsratsvorsitzender: ...
    re.compile(
        r"\b(?:Gesch(?:ä|ae)ftsf(?:ü|ue)hr(?:er|erin|ung|ende\w*)|Vorstand\w*|Vors\. d|Aufsichtsrat\w*|Verwaltungsrat|Vertretungsberechtigt\w*"
        r"|Managing Directors?|Board of|Supervisory Board|Executive Board|CEO)\s*(?:\([^()]{1,40}\))?\s*[:：]",
        re.IGNORECASE,
    ),
    # Sitz der Gesellschaft: München      Registered office: 1 High Street, London      Registered in England
    re.compile(
        r"\b(?:Sitz(?: der Gesellschaft| und Registergericht)?\s*[:：]|Sitz der Gesellschaft|Firmensitz|Registered (?:office|in)|Company (?:No|number|registration))",
        re.IGNORECASE,
    ),
    # Bankverbindung: Musterbank, IBAN DE..., BIC ...
    re.compile(r"\b(?:Bankverbindung|BIC\b|SWIFT\b|Gläubiger-?ID|Gläubiger-Identifikation)", re.IGNORECASE),
)
# in Ihrem Impressum steht HRB 99887: somebody speaks
_SPEAKS = re.compile(
    r"\b(?:ich|wir|mir|mich|mein\w*|unser\w*|uns|ihnen|ihre?[mnrs]?|sie|bitte|habe|haben|steht|lautet|möchten?|moechten?|warum|wie|können|I|my|we|our|you|your|please|why|how)\b",
    re.IGNORECASE,
)
_LEGAL_SPEAKS_ANYWAY = re.compile(r"unsere?[mnrs]? (?:AGB|Datenschutz|Impressum|Allgemeinen)", re.IGNORECASE)

# Newsletter abbestellen | Impressum | Datenschutz      Unsubscribe<https://...>      Im Browser ansehen
_TRACKING = re.compile(
    r"[-–—|*>•· \[(]{0,6}(?:(?:newsletter |hier |e-?mails? )?(?:abbestellen|abmelden|unsubscribe|austragen|opt[- ]?out)(?: from (?:this|our) .{0,30})?"
    r"|(?:view|show|open) (?:this )?(?:e-?mail |message )?in (?:your |the )?browser|im browser (?:ansehen|anzeigen|öffnen)"
    r"|(?:diese )?(?:e-?mail )?im browser (?:ansehen|anzeigen)|manage (?:your )?preferences|e-?mail-einstellungen(?: ändern)?"
    r"|(?:um|wenn|falls) .{0,60}(?:newsletter|e-?mails?)\b.{0,60}(?:abbestellen|abmelden|abzumelden|abzubestellen|nicht mehr erhalten|erhalten möchten).{0,60}(?:hier|klick|link).{0,60}"
    r"|(?:to|if you).{0,60}(?:unsubscribe|stop receiving).{0,60}(?:click|visit|here|link|preferences).{0,80})"
    r"[\s.\])|•·-]{0,4}(?:<[^<>\s]{4,400}>|https?://\S{4,400})?(?:[\s|•·-]{1,4}(?:impressum|datenschutz\w*|privacy(?: policy)?|imprint|kontakt|agb|faq|abmelden|abbestellen|unsubscribe)){0,5}[\s.>]{0,4}$",
    re.IGNORECASE,
)
_TRACKING_PREFILTER = re.compile(
    r"abbestell|abmeld|unsubscribe|browser|preferences|einstellungen|newsletter|opt[- ]?out|austragen|receiving",
    re.IGNORECASE,
)

# [cid:image001.png@01DA7F00.12345678]      [image: Logo]      [Bild: Logo der Musterbank]
_INLINE_IMAGE = re.compile(
    r"(?:\s*\[(?:cid:[^\[\]\s]{1,120}|image(?:: ?[^\[\]]{0,80})?|Bild(?:: ?[^\[\]]{0,80})?|Logo|https?://[^\[\]\s]{1,300}\.(?:png|gif|jpe?g)[^\[\]\s]{0,100})\](?:<[^<>\s]{1,300}>)?)+\s*$",
    re.IGNORECASE,
)
# body { font-family: Arial; }      .MsoNormal { margin: 0cm }      @media screen {
_CSS_LINE = re.compile(
    r"(?:[.#@]?[a-zA-Z][\w.#, :>*-]{0,80}\s*\{[^{}]{0,400}\}?|[a-z-]{3,30}\s*:\s*[^:;{}]{1,80};\s*\}?|\}|/\*[^*]{0,200}\*/|<!--|-->|v\\:\*.{0,100}|@[a-z-]+\s*\{?)\s*$"
)
_CSS_OPENS = re.compile(r"[.#@]?[a-zA-Z][\w.#, :>*()-]{0,120}\s*\{")


def paragraphs(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Runs of lines that are still the client's, parted by blank lines, cut lines and rules."""
    block: list[Line] = []
    for line in lines:
        if line.own:
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def cut_app_footers(lines: Sequence[Line]) -> None:
    """Mark app footers, virus scanner lines (`client_footer`), banners (`disclaimer`), opt-outs and images."""
    for line in lines:
        if not line.own or len(line.text) > 300:
            continue
        text = line.text
        if is_app_footer(text):
            line.cut = ("client_footer", "app_footer")
        elif _SCANNER.match(text):
            line.cut = ("client_footer", "virus_scanner")
        elif _BANNER.match(text):
            line.cut = ("disclaimer", "external_banner")
        elif is_opt_out(text):
            line.cut = ("tracking", "opt_out")
        elif text[0] == "[" and _INLINE_IMAGE.match(text):
            line.cut = ("html", "inline_image")


def is_app_footer(text: str) -> bool:
    """Whether a line is what a mail app appends, such as `Gesendet von meinem iPhone`."""
    return (
        _APP_FOOTER_PREFILTER.search(text) is not None
        and _APP_FOOTER.match(text) is not None
        and not _NO_APP_FOOTER.search(text.replace("wurde ", "", 1) if text[:1] in "DdTt" else text)
    )


def is_opt_out(text: str) -> bool:
    """Whether a line only offers to unsubscribe."""
    return _TRACKING_PREFILTER.search(text) is not None and _TRACKING.match(text) is not None


def cut_css(lines: Sequence[Line]) -> None:
    """Mark style rules that a converter left in the text: at least two such lines together."""
    position = 0
    while position < len(lines):
        if not (lines[position].own and _CSS_OPENS.match(lines[position].text)):
            position += 1
            continue
        end = position
        while end < len(lines) and (not lines[end].text or _CSS_LINE.match(lines[end].text)):
            end += 1
        block = [line for line in lines[position:end] if line.own]
        if len(block) >= 2 and any("}" in line.text for line in block) and any(";" in line.text for line in block):
            for line in block:
                line.cut = ("css", "style_rules")
        position = max(end, position + 1)


def is_disclaimer(block: Sequence[Line]) -> bool:
    """Whether a paragraph is a notice of confidentiality, liability or paper saving."""
    start = block[0].text
    if not _DISCLAIMER_START.match(start):
        return False
    text = " ".join(line.text for line in block[:20])[:3000]
    found = {match[0].lower() for match in _DISCLAIMER_WORDS.finditer(text)}
    if "umwelt" in found or "environment" in found:
        return True
    return len(found) >= (2 if len(text) > 60 else 1)


def legal_features(text: str) -> int:
    """How many different facts of an imprint a text holds."""
    return sum(pattern.search(text) is not None for pattern in _LEGAL_FEATURES)


def is_legal_line(text: str) -> bool:
    """Whether a line states a fact of an imprint, and nobody speaks in it."""
    return len(text) < 400 and legal_features(text) > 0 and not speaks(text)


def is_legal(block: Sequence[Line]) -> bool:
    """Whether a paragraph is an imprint."""
    text = " ".join(line.text for line in block[:20])[:3000]
    return legal_features(text) >= 2 and not speaks(text)


def speaks(text: str) -> bool:
    """Whether somebody says `I`, `you` or `please`."""
    return _SPEAKS.search(_LEGAL_SPEAKS_ANYWAY.sub("", text)) is not None


def cut_disclaimers(lines: Sequence[Line]) -> None:
    """Mark disclaimers wherever they stand; a paragraph that follows one and goes on in its manner goes too."""
    for block in paragraphs(lines):
        if is_disclaimer(block):
            for line in block:
                line.cut = ("disclaimer", "disclaimer")
