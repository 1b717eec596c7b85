"""Finds where the client's words end: at a delimiter, a closing formula, contact details, an imprint."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice, pairwise, takewhile

from mailtriage.cleaning_rules.closings import is_closing, is_name, is_only_thanks, is_short_closing, may_close
from mailtriage.cleaning_rules.disclaimers import is_disclaimer
from mailtriage.cleaning_rules.greetings import is_salutation
from mailtriage.cleaning_rules.imprints import (
    cut_imprint,
    is_imprint,
    is_imprint_line,
    names_company,
    speaks,
    speaks_of_company,
)
from mailtriage.cleaning_rules.mail_lines import Line, paragraphs, paragraphs_from_end
from mailtriage.cleaning_rules.patterns import Mentions, Telling, mentioned, pattern
from mailtriage.cleaning_rules.signature_lines import (
    is_company,
    is_contact,
    is_detail,
    is_kept,
    is_labelled,
    is_link,
    is_postscript,
    is_prose,
    is_signature_line,
    says_when_to_call,
)

_DELIMITERS = frozenset({"--", "—", "__"})
# ________________      ***      ~~~~      ᐧ
_RULE = pattern(r"(?:[-_=*~#+─—–.•·|]{2,}|[—–_ᐧ·•|])$")
_REFERS_TO_SIGNATURE = pattern(
    # Meine neue Nummer steht in der Signatur.      see my signature
    r"\b(?:siehe|in|aus|s\.|laut|see)\s(?:der|meiner|unserer|my|the)?\s?(?:signatur|signature)\b",
    # Meine neue Adresse finden Sie unten.      unter der unten stehenden Nummer
    r"\b(?:unten ?stehende|nachstehende|nachfolgende|unten (?:genannte|angegebene))[nrs]? (?:\w+ )?\w{0,10}nummer\b",
    r"(?:adresse|anschrift|telefonnummer|rufnummer|handynummer|mobilnummer|kontaktdaten|address|phone number"
    r"|contact details)\b[^.!?]{0,60}"
    r"\b(?:siehe|unten|nachfolgend|nachstehend|unterhalb|below|folgt)\b",
    # Unten finden Sie meine geänderte Anschrift.
    r"\b(?:unten|nachfolgend|nachstehend|siehe|below)\b[^.!?]{0,40}(?:adresse|anschrift|telefonnummer|rufnummer"
    r"|kontaktdaten|address|contact details)",
)
# Meine neue Adresse lautet:      Ich bin umgezogen      Sie erreichen mich jetzt so      Bitte Rückruf.
_INTRODUCES = pattern(
    r":$|\b(?:adresse|anschrift|wohnhaft|umgezogen|umzug|rückruf|erreich\w{0,4}|kontaktdaten|daten|lautet|address|moved"
    r"|reach me"
    r"|as follows)\b[^.]{0,40}[.]?$"
)

LONGEST_LINE = 160  # of a signature
LONGEST_SIGNATURE = 40  # lines below a delimiter


# Without one of these, nobody speaks of a signature or of something below.
_REFERRING = Telling("signatur", "unten", "nachfolgend", "nachstehend", "siehe", "unterhalb", "below", "folgt")


def cut_signatures(lines: Sequence[Line], mentions: Mentions) -> None:
    """Mark signatures (`signature`), and with them imprints and disclaimers that stand at the client's end."""
    referring = mentions.of(_REFERRING)
    refers = bool(referring) and any(_refers_to_signature(line, referring) for line in lines)
    if not refers:
        _cut_elements(lines)
        _cut_below_delimiter(lines)
        _cut_below_closings(lines)
        _cut_contact_block(lines)
    if _cut_imprint_at_end(lines) and not refers:
        _cut_contact_block(lines)
    _cut_rules_at_end(lines)


def _refers_to_signature(line: Line, referring: Sequence[str]) -> bool:
    text = line.text
    if len(text) >= 400 or not line.own or not mentioned(text.lower(), referring):
        return False
    return _REFERS_TO_SIGNATURE.search(text) is not None


def _cut_elements(lines: Sequence[Line]) -> None:
    """`<div class="gmail_signature">` and its kind."""
    for line in lines:
        if line.container and line.container[0] == "signature" and line.own and not is_kept(line.text):
            line.cut = ("signature", line.container[1])


def _cut_below_delimiter(lines: Sequence[Line]) -> None:
    """`-- ` and what follows, unless somebody goes on speaking there."""
    for index, line in enumerate(lines):
        if line.text not in _DELIMITERS or not line.own:
            continue
        below = (later for later in islice(lines, index + 1, None) if later.own)
        block = list(islice(below, LONGEST_SIGNATURE + 1))
        if not block or len(block) > LONGEST_SIGNATURE:
            continue
        is_standard = line.text == "--" and line.end - line.start == 3  # `-- ` as RFC 3676 has it
        if not is_standard and _is_to_be_said(lines[:index]):
            continue
        if is_standard or not any(_is_spoken(paragraph) for paragraph in paragraphs(block)):
            line.cut = ("signature", "delimiter")
            _cut_signature(lines, index + 1, "delimiter")
            return


def _is_to_be_said(above: Sequence[Line]) -> bool:
    """Whether a client has not yet said what he wants: only greeted, or ended with a colon."""
    own = [line.text for line in above if line.own]
    return bool(own) and (own[-1].endswith(":") or all(map(is_salutation, own)))


def _is_spoken(block: Sequence[Line]) -> bool:
    if is_disclaimer(block) or is_imprint(block):
        return False
    return any(is_postscript(line.text) or (is_prose(line.text) and speaks(line.text)) for line in block)


def _cut_below_closings(lines: Sequence[Line]) -> None:
    for index, line in enumerate(lines):
        if not line.text or not may_close(line.text) or not line.own:
            continue
        if is_closing(line.text):
            if is_short_closing(line.text) and not _may_close(lines, index):
                continue
            if not is_kept(line.text):  # Viele Grüße Max Muster, Erbe von Eva Muster
                line.cut = ("signature", "closing")
            _cut_signature(lines, index + 1, "closing")
        elif is_only_thanks(line.text) and _only_signature_left(lines, index + 1):
            _cut_signature(lines, index + 1, "closing")


def _may_close(lines: Sequence[Line], index: int) -> bool:
    """LG Electronics: a closing stands below a blank line or a sentence, above nothing or a signature."""
    before = lines[index - 1].text if index else ""
    below = lines[index + 1].text if index + 1 < len(lines) else ""
    return (not before or before[-1] in ".!?,") and (not below or is_signature_line(below))


def _only_signature_left(lines: Sequence[Line], start: int) -> bool:
    """Whether only a name, perhaps with details, is left below a `Vielen Dank`."""
    left = [line.text for line in islice((line for line in islice(lines, start, None) if line.own), 13)]
    return 0 < len(left) <= 12 and is_name(left[0]) and all(is_signature_line(text) for text in left[1:])


def _cut_signature(lines: Sequence[Line], start: int, rule: str) -> None:
    """Cut name, contact and company lines from `start` on; stop where the client goes on."""
    below = takewhile(lambda line: line.cut is None or line.cut[0] != "forward_header", islice(lines, start, None))
    company = False  # whether the signature has stated a fact that only companies have
    for count, block in enumerate(paragraphs(below)):
        kinds = [_kind_of_line(line.text) for line in block]
        company = company or any(
            kind == "imprint" and names_company(line.text) for line, kind in zip(block, kinds, strict=True)
        )
        if not _cut_paragraph(block, kinds, rule, near=count < 2, company=company):
            return


def _cut_paragraph(block: Sequence[Line], kinds: Sequence[str], rule: str, near: bool, company: bool) -> bool:
    """Cut a paragraph of a signature line by line; returns whether the signature may go on below it.

    `near`: only close to the closing is a lone name part of the signature. Below a delimiter, a short line of any
    sort is. `company`: its bank account is part of the imprint; another's is what the client says.
    """
    if is_disclaimer(block):
        for line in block:
            line.cut = ("disclaimer", "disclaimer")
        return True
    with_details = any(kinds)
    kept = [is_kept(line.text) for line in block]
    with_facts = not company and any(kept)
    for position, (line, kind) in enumerate(zip(block, kinds, strict=True)):
        if kept[position] and not (company and kind == "imprint"):
            if is_postscript(line.text):
                return False
            if says_when_to_call(line.text):
                _keep_number_above(block[:position])
        elif with_facts and is_labelled(line.text):
            continue  # Kontoinhaber: Max Muster, beside an IBAN
        elif kind == "imprint":
            line.cut = ("legal_footer", "imprint")
        elif not _cut_line(line, kind == "detail", rule, near or with_details, with_details or rule == "delimiter"):
            return False
    return True


def _keep_number_above(block: Sequence[Line]) -> None:
    """0170 1234567, above `ab 17 Uhr erreichbar`"""
    if block and is_contact(block[-1].text):
        block[-1].cut = None


def _kind_of_line(text: str) -> str:
    if is_imprint_line(text):
        return "imprint"
    return "detail" if is_detail(text) else ""


def _cut_line(line: Line, detail: bool, rule: str, names: bool, others: bool) -> bool:
    """Cut a line of a signature; `names` and `others` say whether lone names and other short lines belong to it."""
    text = line.text
    if len(text) > LONGEST_LINE or is_salutation(text):
        return False
    spoken = is_prose(text) and (rule != "delimiter" or speaks(text))
    if detail or _RULE.match(text) or (is_closing(text) and rule == "delimiter"):
        belongs = True
    elif is_name(text):
        belongs = names or others
    else:
        belongs = not spoken and (others or (names and len(text.split()) <= 2 and not is_closing(text)))
    if belongs:
        line.cut = ("signature", rule)
    return belongs


def _cut_contact_block(lines: Sequence[Line]) -> None:
    """Last paragraphs without a closing: a name, at least two details, and among them a way to reach somebody."""
    with_one_above = pairwise(paragraphs_from_end(lines))
    names = False  # whether contacts were cut below
    for block, above in with_one_above:
        before = above[-1].text[-200:]
        if not (names and _is_name_above(block) and not _INTRODUCES.search(before)):
            if not _is_contact_block(block, before):
                return
            names = True
        _cut_contacts(block)


def _cut_contacts(block: Sequence[Line]) -> None:
    for line in block:
        if not is_kept(line.text):
            line.cut = ("signature", "contact_block")


def _is_name_above(block: Sequence[Line]) -> bool:
    """A name, perhaps with a title, that stands in a paragraph of its own above contact details."""
    texts = [line.text for line in block]
    return len(texts) <= 2 and is_name(texts[0]) and len(texts[0].split()) > 1 and all(map(is_signature_line, texts))


def _is_contact_block(block: Sequence[Line], before: str) -> bool:
    texts = [line.text for line in block]
    if len(texts) < 3 or any(len(text) > LONGEST_LINE for text in texts):
        return False
    if not (is_name(texts[0]) or is_company(texts[0])) or texts[0].endswith(":"):
        return False
    if _INTRODUCES.search(before):
        return False
    details = sum(is_detail(text) for text in texts)
    plain = all(is_signature_line(text) or is_kept(text) or _RULE.match(text) for text in texts)
    return plain and details >= 2 and any(is_contact(text) and not is_link(text) for text in texts)


def _cut_imprint_at_end(lines: Sequence[Line]) -> bool:
    """Imprints are cut only from the end of the client's words upwards, and not where the client announces them.

    Returns whether any was.
    """
    found = False
    for block, above in pairwise(chain(paragraphs_from_end(lines), ([],))):
        if not is_imprint(block) or not all(is_signature_line(line.text) for line in block):
            break
        if above and _announces(above):
            break
        cut_imprint(block)
        found = True
    return found


def _announces(block: Sequence[Line]) -> bool:
    """Whether the paragraph above an imprint says that it is what the client writes about."""
    return block[-1].text.endswith(":") or any(
        speaks_of_company(line.text) and not is_signature_line(line.text) for line in block
    )


def _cut_rules_at_end(lines: Sequence[Line]) -> None:
    """Lines such as `____` that part the client's words from nothing."""
    for line in reversed(lines):
        if line.cut is None and line.text:
            if not _RULE.match(line.text):
                return
            line.cut = ("signature", "rule")
