"""Redaction: what is put in the place of numbers and addresses, and what is left alone."""

from __future__ import annotations

import pytest

from mailtriage.cleaning import clean
from mailtriage.cleaning_rules.redaction import is_card_number, is_iban, is_tax_id


def redacted(text: str) -> str:
    return clean(text, redact=True).text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("IBAN DE89 3704 0044 0532 0130 00, bitte", "IBAN [IBAN], bitte"),
        ("de89370400440532013000", "[IBAN]"),
        ("auf AT61 1904 3002 3457 3201 und CH93 0076 2011 6238 5295 7", "auf [IBAN] und [IBAN]"),
        ("Verrechnungskonto DE89 3704 0044 0532 0130 00 Danke", "Verrechnungskonto [IBAN] Danke"),
        ("Karte 4111 1111 1111 1111 sperren", "Karte [CARD] sperren"),
        ("Karte 4111-1111-1111-1111.", "Karte [CARD]."),
        ("Tel. +49 (0)89 123456-78", "Tel. [PHONE]"),
        ("0170/1234567 oder 01701234567", "[PHONE] oder [PHONE]"),
        ("089 / 123 45 67", "[PHONE]"),
        ("0049 170 1234567", "[PHONE]"),
        ("an max.muster+bank@mail.example.org.", "an [EMAIL]."),
        ("Depotnummer: 1234567890", "Depotnummer: [DEPOT]"),
        ("mein Depot 1234567890", "mein Depot [DEPOT]"),
        ("Depot-Nr. 123 456 789 bitte", "Depot-Nr. [DEPOT] bitte"),
        ("custody account no. 12345678", "custody account no. [DEPOT]"),
        ("Kontonummer lautet 1234567", "Kontonummer lautet [ACCOUNT]"),
        ("Kundennummer 1234567", "Kundennummer [ACCOUNT]"),
        ("Steuer-ID: 86 095 742 719", "Steuer-ID: [TAX_ID]"),
        ("Steuernummer 143/123/12345", "Steuernummer [TAX_ID]"),
        ("86095742719 ist meine Nummer", "[TAX_ID] ist meine Nummer"),
        ("USt-IdNr. DE123456789 stimmt", "USt-IdNr. [TAX_ID] stimmt"),
        ("Kto-Nr. 1234567", "Kto-Nr. [ACCOUNT]"),
        ("Kto. 1234567 bitte", "Kto. [ACCOUNT] bitte"),
        ("Vertragsnummer 123456789", "Vertragsnummer [ACCOUNT]"),
        ("Tel. 089123456", "Tel. [PHONE]"),
        ("Telefonnummer: 123456", "Telefonnummer: [PHONE]"),
        ("Handy 0170 1234567. 3 Stück", "Handy [PHONE]. 3 Stück"),
        ("mein Depot (Nr. 1234567890)", "mein Depot (Nr. [DEPOT])"),
        ("Depotnummern 1234567890 und 1234567891", "Depotnummern [DEPOT] und [DEPOT]"),
        ("Konten 1234567, 2345678 sowie 3456789", "Konten [ACCOUNT], [ACCOUNT] sowie [ACCOUNT]"),
        ("Depot-Nr.:\t1234567890", "Depot-Nr.:\t[DEPOT]"),
        ("Depot\n1234567890", "Depot\n[DEPOT]"),
        ("StNr. 143/123/12345", "StNr. [TAX_ID]"),
        ("St.-Nr. 143/123/12345", "St.-Nr. [TAX_ID]"),
        ("UID ATU12345678", "UID [TAX_ID]"),
        ("VAT ID DE123456789", "VAT ID [TAX_ID]"),
    ],
)
def test_numbers_and_addresses_give_way_to_typed_placeholders(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "DE89 3704 0044 0532 0130 01 hat falsche Prüfziffern",
        "4111 1111 1111 1112 ist keine Karte",
        "am 01.02.2024 um 10:11 Uhr für 1.234,56 €",
        "von 2023-12-31 bis 2024-03-12",
        "ISIN DE0007164600, WKN 716460",
        "mein Depot hat 100.000 EUR",
        "Depot 100000 EUR wert",
        "Konto 50 000 Euro",
        "12345678901 Stück",
        "Auftrag 4711 vom 12.03.2024",
        "Seite 1/12, Kapitel 3.4.5",
        "PLZ 80331 München, Hauptstraße 12",
        "Sparplan 150 / 200 / 250 Euro",
        "Konto\n80331 München",
        "Depot 50000 EUR und 100000 Euro",
        "neues Handy 12345 Euro",
        "Telefon am 12.03.2024",
        "Telefonnummer 4711",
    ],
)
def test_dates_amounts_and_security_numbers_stay(text: str) -> None:
    assert redacted(text) == text


def test_placeholders_are_spans_of_their_own_kind() -> None:
    body = "<p>Meine IBAN: DE89&nbsp;3704&nbsp;0044&nbsp;0532&nbsp;0130&nbsp;00</p>"

    cleaned = clean(body, redact=True)

    assert cleaned.text == "Meine IBAN: [IBAN]"
    assert [(span.rule, span.replacement) for span in cleaned.removed if span.kind == "redacted"] == [
        ("iban", "[IBAN]")
    ]


@pytest.mark.parametrize("digit", range(10))
def test_exactly_one_last_digit_is_right(digit: int) -> None:
    assert is_card_number(f"411111111111111{digit}") == (digit == 1)
    assert is_tax_id(f"8609574271{digit}") == (digit == 9)


@pytest.mark.parametrize("check", range(0, 97, 7))
def test_the_check_digits_of_an_iban_are_checked(check: int) -> None:
    assert is_iban(f"DE{check:02d}370400440532013000") == (check == 89)


def test_one_wrong_digit_is_found() -> None:
    assert is_iban("DE89370400440532013000")
    assert not any(is_iban(f"DE8937040044053201300{digit}") for digit in range(1, 10))
