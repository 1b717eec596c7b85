"""What `clean` promises: kinds, subject, salutation, last resort, and the whole public surface."""

from __future__ import annotations

import pytest

from mailtriage import cleaning
from mailtriage.cleaning import CLEANING_VERSION, KNOWN_CLEANING_VERSIONS, Removed, clean

EVERYTHING = """<html><head><style>p { color: red }</style></head><body>
<p>[EXTERN] Diese E-Mail stammt von einem externen Absender.</p>
<p>Bitte den Sparplan &auml;ndern.</p>
<p>Mit freundlichen Gr&uuml;&szlig;en<br>Max Muster</p>
<p>Muster GmbH<br>Amtsgericht M&uuml;nchen, HRB 123456<br>Gesch&auml;ftsf&uuml;hrer: Max Muster</p>
<p>Gesendet von meinem iPhone</p>
<img src="https://t.example/p.gif" width="1" height="1">
<blockquote type="cite">alte Frage</blockquote>
</body></html>"""


def kinds(body: str, subject: str = "", **options: object) -> set[str]:
    return {span.kind for span in clean(body, subject, **options).removed}  # type: ignore[arg-type]


def removed_text(body: str, kind: str) -> str:
    return "|".join(body[span.start : span.end].strip() for span in clean(body).removed if span.kind == kind)


def test_every_kind_is_named() -> None:
    assert clean(EVERYTHING).text == "Bitte den Sparplan ändern."
    assert kinds(EVERYTHING) == {
        "html",
        "css",
        "whitespace",
        "disclaimer",
        "signature",
        "legal_footer",
        "client_footer",
        "tracking",
        "quote",
    }


def test_a_forward_has_its_own_kind() -> None:
    body = "---------- Forwarded message ---------\nVon: a@b.example\nBetreff: x\n\nBitte um Hilfe"

    assert kinds(body) == {"forward_header", "whitespace"}


def test_spans_are_offsets_into_the_source_that_was_given() -> None:
    body = "<p>Gr&uuml;&szlig;e an alle</p><blockquote type=cite>alt</blockquote>"

    assert clean(body).text == "Grüße an alle"
    assert removed_text(body, "quote") == "alt</blockquote>"


@pytest.mark.parametrize("body", ["", " \r\n\t", "\x00", "<br>", "&nbsp;", "<p></p>", "-----", "> \n>"])
def test_a_body_without_words_gives_an_empty_text(body: str) -> None:
    assert clean(body).text.strip(">-& \nbspr;<") == ""


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("> Wie lautet Ihre Adresse?", "> Wie lautet Ihre Adresse?"),
        ("Mit freundlichen Grüßen\nMax Muster", "Mit freundlichen Grüßen\nMax Muster"),
        ("-- \nMax Muster\nHauptstraße 1", "--\nMax Muster\nHauptstraße 1"),
        (
            "Diese E-Mail ist vertraulich. Weitergabe ist nicht gestattet.",
            "Diese E-Mail ist vertraulich. Weitergabe ist nicht gestattet.",
        ),
        # what is left after the first look would go at the second
        (
            "> a\nRegistergericht: Amtsgericht Köln, HRB 4711\n--\n> Ihr Auszug liegt im Postfach.",
            "Registergericht: Amtsgericht Köln, HRB 4711",
        ),
    ],
)
def test_if_everything_would_go_the_best_block_stays_and_is_marked(body: str, text: str) -> None:
    cleaned = clean(body)

    assert (cleaned.text, cleaned.kept_as_last_resort) == (text, True)


def test_below_an_attribution_at_the_top_stand_the_clients_words() -> None:
    body = "Am 12.03.2024 um 10:11 schrieb Max <max@example.org>:\n\nBitte das Depot schließen.\n\n> alt"

    assert clean(body).text == "Bitte das Depot schließen."


def test_a_mail_with_words_of_its_own_is_no_last_resort() -> None:
    assert not clean("Bitte sperren.\n> alt").kept_as_last_resort


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("Sehr geehrte Damen und Herren,\n\nbitte sperren.", "bitte sperren."),
        ("Sehr geehrter Herr Dr. Muster,\nbitte sperren.", "bitte sperren."),
        ("Hallo Frau Beispiel!\nBitte sperren.", "Bitte sperren."),
        ("Guten Tag\n\nBitte sperren.", "Bitte sperren."),
        ("Hi, please block my card.", "please block my card."),
        ("Liebes Team,\nbitte sperren.", "bitte sperren."),
        ("Moin zusammen,\nbitte sperren.", "bitte sperren."),
        ("Dear Sir or Madam,\nplease block.", "please block."),
        ("Hallo,", "Hallo,"),
        ("Liebe Grüße sind etwas Schönes.", "Liebe Grüße sind etwas Schönes."),
        ("Hallo ich bin Kunde und möchte sperren.", "Hallo ich bin Kunde und möchte sperren."),
    ],
)
def test_the_salutation_is_cut_on_request_and_kept_otherwise(body: str, text: str) -> None:
    assert clean(body, greeting="cut").text == text
    assert clean(body).text == body


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("AW: WG: Re: Fwd: Depotübertrag", "Depotübertrag"),
        ("Antwort: Depotübertrag", "Depotübertrag"),
        ("Re[2]: RE(3): Depot", "Depot"),
        ("[EXTERN] AW: [EXT] Depot", "Depot"),
        ("AW: [Ticket#2024031210000123] Login geht nicht", "Login geht nicht"),
        ("Login geht nicht [#4711]", "Login geht nicht"),
        ("Re: (Ticket-ID: 4711) Login", "Login"),
        ("*** SPAM *** Angebot", "Angebot"),
        ("Re:", ""),
        ("", ""),
        ("  viel \t Platz\r\n  hier ", "viel Platz hier"),
        ("Frage: Wie hoch ist der Zins?", "Frage: Wie hoch ist der Zins?"),
        ("Rechnung 4711", "Rechnung 4711"),
        ("Kauf [WKN 716460]", "Kauf [WKN 716460]"),
        ("Reise: Karte im Ausland", "Reise: Karte im Ausland"),
        ("Vertraulich: Erbschaft", "Vertraulich: Erbschaft"),
        ("[WKN-716460] kaufen", "[WKN-716460] kaufen"),
        ("[ETF-12345] kaufen", "[ETF-12345] kaufen"),
        ("Auszug [Depot-1234567] fehlt", "Auszug [Depot-1234567] fehlt"),
        ("[SUP-12345] Auszug", "Auszug"),
        ("(EXTERN) Auszug", "Auszug"),
        ("{External} AW: Auszug", "Auszug"),
        ("Auszug (externe Bank)", "Auszug (externe Bank)"),
        ("[Ticket#1] Auszug", "Auszug"),
        ("AW: Ticket-Nr. 4711: Auszug", "Auszug"),
        ("Frage zu Ticket-Nr. 4711", "Frage zu Ticket-Nr. 4711"),
        ("Weiterleitung: WTR: Auszug", "Auszug"),
        ("Weiterleitung an meine Frau", "Weiterleitung an meine Frau"),
    ],
)
def test_the_subject_keeps_its_words(subject: str, words: str) -> None:
    assert clean("Text", subject).subject == words
    assert clean("Text", words).subject == words


def test_the_subject_is_redacted_too() -> None:
    assert clean("Text", "AW: Konto DE89 3704 0044 0532 0130 00", redact=True).subject == "Konto [IBAN]"


def test_only_a_forward_in_the_outermost_prefix_makes_a_forward() -> None:
    body = "Bitte.\n\nVon: Max <max@example.org>\nGesendet: 12. März 2024 10:11\nAn: x\nBetreff: y\n\nDepot schließen."

    assert clean(body, "WG: y").text == "Bitte.\n\nDepot schließen."
    assert clean(body, "[EXTERN] WG: y").text == "Bitte.\n\nDepot schließen."
    assert clean(body, "AW: WG: y").text == "Bitte."


def test_the_public_surface() -> None:
    assert set(cleaning.__all__) == {"CLEANING_VERSION", "KNOWN_CLEANING_VERSIONS", "Cleaned", "Removed", "clean"}
    assert CLEANING_VERSION in KNOWN_CLEANING_VERSIONS
    with pytest.raises(AttributeError):
        Removed("quote", "rule", 0, 1).start = 5  # type: ignore[misc]
