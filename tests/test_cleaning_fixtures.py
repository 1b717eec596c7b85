"""Every mail under fixtures/mails, raw beside what its client wrote; in a `trap_` mail, (almost) nothing may be cut."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from mailtriage.cleaning import Cleaned, clean
from mailtriage.cleaning_rules.edits import apply_edits
from mailtriage.mime import read_message

MAILS = sorted((Path(__file__).parent / "fixtures" / "mails").glob("*.eml"))


def cleaned(path: Path) -> tuple[str, Cleaned]:
    mail = read_message(path.read_bytes(), path.stem).mail
    return mail.body, clean(mail.body, mail.subject)


def test_there_are_enough_mails_and_a_third_of_them_are_traps() -> None:
    traps = [path for path in MAILS if path.stem.startswith("trap_")]

    assert len(MAILS) >= 120
    assert len(traps) >= len(MAILS) // 3


RULES = {
    "client_footer": "app_footer virus_scanner",
    "css": "style style_rules",
    "disclaimer": "disclaimer external_banner",
    "forward_header": "attribution forwarded_message header_block original_message quote_mark",
    "html": "comment declaration entity image inline_image script tag title",
    "legal_footer": "imprint",
    "quote": "attribution blockquote_cite blockquote_client gmx_quote header_block original_message outlook_quote"
    " quote_mark quote_mark_wrapped reply_mark yahoo_quoted",
    "signature": "closing contact_block delimiter rule signature_element",
    "tracking": "hidden_element opt_out pixel why_sent",
    "whitespace": "html_space white_space",
}


def test_each_rule_cuts_something_from_at_least_two_mails() -> None:
    seen = Counter(rule for path in MAILS for rule in {(span.kind, span.rule) for span in cleaned(path)[1].removed})

    assert seen.keys() == {(kind, rule) for kind, rules in RULES.items() for rule in rules.split()}
    assert [rule for rule, mails in seen.items() if mails < 2] == []


@pytest.mark.parametrize("path", MAILS, ids=lambda path: path.stem)
def test_the_clients_words_are_left_and_nothing_else(path: Path) -> None:
    expected = path.with_suffix(".expected.txt").read_text(encoding="utf-8").rstrip("\n")

    body, result = cleaned(path)

    assert result.text == expected
    assert apply_edits(body, result.removed) == expected
    assert clean(result.text).text == expected


@pytest.mark.parametrize("path", MAILS, ids=lambda path: path.stem)
def test_a_mail_from_windows_gives_the_same(path: Path) -> None:
    body, result = cleaned(path)
    subject = read_message(path.read_bytes(), path.stem).mail.subject

    assert clean(body.replace("\n", "\r\n"), subject).text == result.text
