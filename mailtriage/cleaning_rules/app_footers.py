"""Finds what mail apps, virus scanners and newsletters append to a mail, and what gateways put above it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from mailtriage.cleaning_rules.mail_lines import Line
from mailtriage.cleaning_rules.patterns import Mentions, Telling, any_of, mentioned, pattern

_SENT = any_of("gesendet", "verschickt", "versendet", "abgeschickt", "geschrieben", "sent", "written", "typed")
_DEVICE = any_of(
    r"iPhone|iPad|iPod|iOS|Mac(?:Book)?\S*|Apple\S*",
    r"Android\S*|Samsung\S*|Galaxy\S*|Huawei\S*|Xiaomi\S*|Redmi\S*|Pixel\S*|HTC\S*|Nokia\S*|Sony\S*|Xperia\S*"
    r"|Motorola\S*",
    r"Fairphone|OnePlus\S*|BlackBerry\S*|Lumia\S*|Alcatel\S*|Surface|TI-85",
    r"Handy|Smart-?phone|Mobiltelefon|Mobilger(?:ä|ae)t|Ger(?:ä|ae)t|Tablet|Telefon",
    r"mobile(?: (?:device|phone))?|cell(?:phone)?|phone|device",
    r"Outlook|Windows\S*|GMX|WEB\.DE|freenet\S*|T-Online|Telekom|Vodafone|Verizon|Yahoo\S*|AOL|Posteo|mailbox\.org"
    r"|Gmail|Zoho",
    r"Proton\S*|Tuta\w*|K-9|Spark|Airmail|Mailbox|Mailspring|MailDroid|BlueMail|TypeApp|Canary|Thunderbird|eM Client"
    r"|Nine",
    r"Sparrow|Acompli|myMail|Edison|Superhuman|Polymail|Newton|\[?mail\]?",
)
# Get Outlook for iOS<https://aka.ms/o0ukef>      Sent from [mail](https://go.example/) for windows 10
_LINK = r"(?:\]?\s?<[^<>\s]{4,300}>|\]?\s?\(?https?://[^()\s]{4,300}\)?)?"
_APP_FOOTER = pattern(
    # Gesendet von meinem iPhone      Gesendet mit der GMX Mail App      Sent from Yahoo Mail on Android
    # Gesendet von Outlook für Android      (Sent from mobile device)      Sent from my Windows 8 PC <http://example.org>
    rf"[-–—_*<> (]{{0,6}}{_SENT} (?:with|via|from|mit|von|vom|über|ueber|per|aus|by)"
    r" (?:(?:mein(?:em|er|en)?|der|dem|my|an?|the|mobile[nr]?|neuen|kostenlosen|sicheren?"
    r"|secure) ){0,3}(?:[^\s,.]{1,20} ){0,2}?"
    rf"{_DEVICE}(?![\w-])(?:{_LINK} ?[^.?]{{0,60}}[.!]?[^.?]{{0,40}}|[^.?<(]{{0,30}}{_LINK})$",
    # Von meinem Samsung Galaxy Smartphone gesendet.      Von unterwegs gesendet
    rf"[-–—_* (]{{0,6}}von (?:meinem|meiner|unterwegs|mobil|einem)(?: \S{{1,25}}){{0,4}}? {_SENT}[.!)*_ ]{{0,4}}$",
    # Gesendet: von unterwegs, bitte Tippfehler entschuldigen
    rf"[-–—_* (]{{0,6}}{_SENT}:? (?:von )?unterwegs[^?]{{0,60}}$",
    # Von Yahoo Mail auf Android gesendet
    rf"[-–—_* (]{{0,6}}von (?:[^\s,.]{{1,20}} ){{0,2}}?{_DEVICE}(?![\w-])[^.?]{{0,40}} {_SENT}[.!)*_ ]{{0,4}}$",
    # Diese Nachricht wurde von meinem Android-Mobiltelefon mit K-9 Mail gesendet.
    rf"(?:diese |this )?(?:nachricht|e-?mail|mail|message) (?:wurde|was) (?:[^\s,.]{{1,20}} ){{0,4}}?{_DEVICE}(?![\w-])"
    rf"[^?]{{0,50}} {_SENT}[.!]?$",
    # Get Outlook for iOS      Holen Sie sich Outlook für Android      Get [Outlook for Android](https://aka.ms/example)
    rf"(?:get|holen sie sich|hol dir|laden sie) \[?outlook (?:for|für|fuer) [^\s.?\]<(]{{1,20}}{_LINK}[\s.]*$",
    # From My Iphone 6      Sent via mobile      Sent with Airmail
    r"(?:from|von) (?:my|meinem) (?:mobile|iphone|ipad|blackberry|handy|android)(?: \w{1,12})?[.!]?$",
    # Envoyé depuis mon iPhone      Sendt fra min iPad      Inviato da iPhone      Verstuurd vanaf mijn iPad
    r"(?:envoyé (?:depuis|de) mon|sendt fra min|inviato da(?:l mio)?|enviado (?:desde|do) m\w+|(?:verstuurd"
    r"|verzonden) (?:vanaf mijn|met)"
    r"|skickat från min|wysłane z) [^.?]{1,40}$",
)
# Gesendet von meinem Konto wurden 500 EUR: somebody speaks
_SPEAKS_OF_SENDING = pattern(
    r"\b(?:wurden|ist|sind|war|hab\w*|hatt?e\w*|konto|depot|bank|fax|brief|einschreiben|post|desk|büro|ich|wir|sie"
    r"|ihnen|leider|nicht|kein\w{0,2}|seit|weil|aber|dass?|mehr|kam|kommt|kann|geht|funktioniert"
    r"|is|was|were|have|but|not|i|we|you|yet|amount|account|that|which|can|does"
    # Gesendet von meinem iPhone aus Spanien, bitte Karte sperren!      Sent from my phone, please block my card
    r"|bitte|karte|sperr\w*|kündig\w*|verkauf\w*|überweis\w*|brauch\w*|möchte|mein|meine|dringend|eilt|hilfe|anruf\w*"
    r"|please|block|card|sell|cancel|close|transfer|need|want|urgent|help|call)\b"
)
# Holen Sie sich Outlook      This message was sent from
_POLITE = pattern(r"holen sie sich|laden sie|this (?:e-?mail|mail|message) was")
# please excuse any typos      Bitte entschuldigen Sie Tippfehler
_EXCUSES = pattern(r"excuse|typo|brevity|tippfehler|entschuldig|kürze")

_SCANNER = pattern(
    # Diese E-Mail wurde von Avast Antivirus-Software auf Viren geprüft.
    r"diese (?:e-?mail|nachricht|mail) wurde (?:von|mit|durch) .{0,60}(?:auf viren|virus|gepr(?:ü|ue)ft|gescannt)",
    # This email has been checked for viruses by AVG.
    r"(?:this |the )?(?:e-?mail|message) (?:has been|was|is) (?:checked|scanned|virus).{0,80}(?:virus|avast|avg"
    r"|mcafee|norton|kaspersky|sophos)",
    # Virenfrei. www.avast.com      Virus-free.www.avg.com
    r"(?:viren-?frei|virus-?free)\.?\s?(?:(?:<?https?://)?(?:www\.)?av(?:ast|g)\.com\S{0,200})?$",
    # https://www.avast.com/antivirus
    r"<?(?:https?://)?(?:www\.)?(?:avast|avg)\.com\S{0,200}$",
    # Geprüft von Kaspersky Anti-Virus
    r"(?:gepr(?:ü|ue)ft|checked|scanned) (?:von|by|durch) (?:avast|avg|mcafee|kaspersky|sophos|eset|g ?data"
    r"|avira).{0,60}$",
    # Keine Viren gefunden. / No virus found in this message.
    r"(?:keine? viren|no virus(?:es)?) (?:gefunden|found).{0,80}$",
)

_BANNER = pattern(
    # [EXTERN] Diese E-Mail stammt von einem externen Absender.      CAUTION: This email originated from outside
    r"[\[*#!<⚠\s]{0,6}(?:(?:extern(?:e|al)?(?: e-?mail)?|caution|achtung|warnung|warning|vorsicht)\b[\]:!*\s]{0,6})?"
    r"(?:diese|this|die) (?:e-?mail|nachricht|message|mail) (?:stammt|kommt|wurde|originated|came|comes|is|was)\b"
    r".{0,40}(?:extern|au(?:ß|ss)erhalb|outside|external)",
    # Sie erhalten nicht oft E-Mails von max@example.org.      You don't often get email from max@example.org.
    r"sie erhalten nicht (?:oft|häufig) e-?mails? von|you don['’]?t often get e-?mail from"
    r"|some people who received this message",
)

_TARGET = r"[\s.\])|•·-]{0,4}(?:<[^<>\s]{4,400}>|https?://\S{4,400})?"
_CHOICE = (
    r"(?:impressum|datenschutz\w*|privacy(?: policy)?|imprint|kontakt|agb|faq|abmelden|abbestellen|unsubscribe"
    r"|(?:(?:manage|update|e-?mail) )?(?:your )?preferences|(?:e-?mail-?)?einstellungen(?: (?:verwalten|ändern))?"
    r"|(?:view )?in (?:your )?browser|im browser (?:ansehen|anzeigen|öffnen))"
)
_OPT_OUT = pattern(
    # Newsletter abbestellen | Impressum | Datenschutz      Unsubscribe<https://example.org/u/1> | Manage preferences
    r"[-–—|*>•· \[(]{0,6}(?:(?:newsletter |hier |e-?mails? )?(?:abbestellen|abmelden|unsubscribe|austragen|opt[- ]?out)"
    rf"(?: from (?:this|our) .{{0,30}})?){_TARGET}"
    rf"(?:[\s|•·-]{{1,4}}{_CHOICE}{_TARGET}){{0,5}}[\s.>]{{0,4}}$",
    # Im Browser ansehen      View this email in your browser
    rf"[-–—|*>•· \[(]{{0,6}}(?:(?:view|show|open) (?:this )?(?:e-?mail |message )?in (?:your |the )?browser"
    rf"|(?:diese )?(?:e-?mail )?im browser (?:ansehen|anzeigen|öffnen)"
    rf"|manage (?:your )?preferences){_TARGET}$",
    # Wenn Sie unseren Newsletter nicht mehr erhalten möchten, klicken Sie hier.
    r"(?:um|wenn|falls) [^.?!]{0,60}(?:newsletter|e-?mails?)\b[^.?!]{0,60}(?:abbestellen|abmelden|abzumelden"
    r"|abzubestellen|nicht mehr erhalten|erhalten möchten)"
    r"[^.?!]{0,60}(?:hier|klick|link)[^?!]{0,60}$",
    # To unsubscribe from these emails, click here
    r"(?:to|if you)\b[^.?!]{0,60}(?:unsubscribe|stop receiving)[^.?!]{0,60}(?:click|visit|here|link"
    r"|preferences)[^?!]{0,80}$",
)
# Sie erhalten diese E-Mail, weil Sie sich für unseren Newsletter angemeldet haben.      You received this email because
_WHY_SENT = pattern(
    r"(?:sie erhalten|du erhältst) (?:diese[nrs]?|unseren) (?:e-?mail|mail|nachricht|newsletter)\b[^.?!]{0,80}"
    r"\b(?:weil|da)\b",
    r"you(?:'re| are) receiving this\b[^.?!]{0,60}\bbecause\b|you received this\b[^.?!]{0,60}\bbecause\b",
)
# weil ich meine Karte verloren habe: the client says why he writes
_SPEAKS_OF_HIMSELF = pattern(r"\b(?:ich|mir|mich|mein\w*|nicht|bitte|please|(?-i:I)|my|me|not)\b")
_LONGEST_REASON = 3  # lines below
_BULLETS = frozenset("-–*•·")


# One of these is in every line that a rule of this module cuts; in most mails, none is anywhere.
_TELLING = Telling(
    "gesend", "sendet", "schickt", "sent ", "written", "typed", "outlook", "from my", "von meinem", "envoy",
    "sendt ", "inviat", "enviad", "verstuurd", "verzonden", "skickat", "wysł", "geschrieben", "viren", "virus",
    "avast", "avg.com", "geprüft", "geprueft", "checked", "scanned", "extern", "outside", "außerhalb",
    "ausserhalb", "nicht oft", "nicht häufig", "often get", "who received", "abbestell", "abmeld", "abzumeld",
    "abzubestell", "unsubscribe", "browser", "preferences", "austragen", "opt", "erhalten", "erhältst", "receiv",
)  # fmt: skip


_OPTING_OUT = Telling(
    "abbestell", "abmeld", "unsubscribe", "austragen", "opt-out", "opt out", "optout", "browser", "preferences",
    "erhalten", "erhältst", "receiv",
)  # fmt: skip


def cut_app_footers(lines: Sequence[Line], mentions: Mentions, again: bool) -> list[Line]:
    """Mark app footers and virus scanner lines (`client_footer`), banners (`disclaimer`) and opt-outs (`tracking`).

    Returns the opt-outs that may be what the client asks for. `again`: these are the lines that were left before. Only
    what is done about an opt-out depends on other lines, so no more than that is decided again.
    """
    opt_outs: list[Line] = []
    telling = mentions.of(_OPTING_OUT if again else _TELLING)
    if not telling:
        return opt_outs
    for index, line in enumerate(lines):
        text = line.text
        if len(text) > 300 or not line.own or not mentioned(text.lower(), telling):
            continue
        if is_app_footer(text):
            line.cut = ("client_footer", "app_footer")
        elif _SCANNER.match(text):
            line.cut = ("client_footer", "virus_scanner")
        elif _BANNER.match(text):
            line.cut = ("disclaimer", "external_banner")
        elif _OPT_OUT.match(text) and not _is_asked_for(lines, index):
            line.cut = ("tracking", "opt_out")
            if "://" not in text:  # nobody types a link to it
                opt_outs.append(line)
        elif _WHY_SENT.match(text):
            _cut_reason(lines[index : index + 1 + _LONGEST_REASON])
    return opt_outs


def _is_asked_for(lines: Sequence[Line], index: int) -> bool:
    """Whether an opt-out is what the client wants done: below a colon, or one item of a list of other things."""
    above = next((line.text for line in reversed(lines[max(0, index - 2) : index]) if line.text), "")
    below = lines[index + 1].text if index + 1 < len(lines) else ""
    if above.endswith(":"):
        return True
    mark = lines[index].text[0]
    return mark in _BULLETS and any(other[:1] == mark and not _OPT_OUT.match(other) for other in (above, below))


def _cut_reason(lines: Sequence[Line]) -> None:
    """Cut the sentence that says why a newsletter was sent; it may go on in the lines below."""
    reason = list(takewhile(lambda line: line.own, lines))
    ends = next((count for count, line in enumerate(reason, 1) if line.text.endswith(".")), 1)
    if not any(_SPEAKS_OF_HIMSELF.search(line.text) for line in reason[:ends]):
        for line in reason[:ends]:
            line.cut = ("tracking", "why_sent")


def is_app_footer(text: str) -> bool:
    """Whether a line is what a mail app appends, such as `Gesendet von meinem iPhone`."""
    if not _APP_FOOTER.match(text):
        return False
    rest = _POLITE.sub("", text, count=1)
    return _SPEAKS_OF_SENDING.search(rest) is None or _EXCUSES.search(rest) is not None
