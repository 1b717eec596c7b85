"""What holds for every mail: offsets rebuild the text, cleaning twice changes nothing, and nothing ever crashes."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailtriage.cleaning import Cleaned, clean
from mailtriage.cleaning_rules.edits import Removed, apply_edits, compose
from mailtriage.cleaning_rules.redaction import redaction_edits

# Lines that rules look for, so that random mails are full of half-right quotes, signatures and footers.
LINES = [
    "Guten Tag,",
    "bitte übertragen Sie mein Depot.",
    "Am 12.03.2024 um 10:11 schrieb Max Muster <max@example.org>:",
    "Am 12.03.2024 schrieb ich Ihnen bereits:",
    "On Tue, 12 Mar 2024 at 10:11, Max Muster <max@example.org>",
    "wrote:",
    "> Vielen Dank für Ihre Anfrage.",
    ">> ältere Frage",
    ">",
    "-----Ursprüngliche Nachricht-----",
    "---------- Forwarded message ---------",
    "Von: Max Muster <max@example.org>",
    "Gesendet: Dienstag, 12. März 2024 10:11",
    "An: service@example.org",
    "Betreff: AW: Depotübertrag",
    "Mit freundlichen Grüßen",
    "Viele Grüße Max",
    "Max Muster",
    "Vielen Dank!",
    "-- ",
    "--",
    "____________",
    "Muster GmbH | Hauptstraße 12 | 80331 München",
    "Tel.: 089 123456",
    "max@example.org",
    "Geschäftsführer: Max Muster, HRB 123456, Amtsgericht München",
    "USt-IdNr.: DE123456789",
    "Diese E-Mail enthält vertrauliche Informationen. Wenn Sie nicht der richtige Adressat sind, vernichten Sie sie.",
    "Gesendet von meinem iPhone",
    "Newsletter abbestellen",
    "PS: Bitte auch den Sparplan anpassen.",
    "Depotnummer: 1234567890",
    "- erster Punkt",
    "[cid:image001.png@01DA7F00.12345678]",
    "p { margin: 0; }",
    "<div class='gmail_quote'>",
    "</div>",
    "<blockquote type=cite>",
    "</blockquote>",
    "<p>Text &amp; mehr&nbsp;</p>",
    "&lt;b&gt; &amp;lt;p&amp;gt;",
    "<br>",
    "<!-- Kommentar",
    "<style>p { color: red }</style>",
    "<pre>  a\n b </pre>",
    "",
    "   ",
    "\u00a0\u200b",
    "\x00",
]
MAILS = st.one_of(
    st.lists(st.sampled_from(LINES), max_size=25).map("\n".join),
    st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=20)), max_size=15).map("\r\n".join),
    st.text(alphabet="<>/&;:=\"'abpdivrl \n\r\t-_*.@0123äß\u00a0", max_size=200),
    st.text(max_size=300),
)
SUBJECTS = st.sampled_from(["", "WG: Depot", "AW: Depot", "Fwd: Re: [EXTERN] Depot"])


def words_of(cleaned: Cleaned) -> str:
    return cleaned.text


@settings(max_examples=600, deadline=None)
@given(MAILS, SUBJECTS, st.sampled_from(["keep", "cut"]), st.booleans())
def test_the_removed_spans_rebuild_the_text(body: str, subject: str, greeting: str, redact: bool) -> None:
    cleaned = clean(body, subject, greeting=greeting, redact=redact)  # type: ignore[arg-type]

    assert apply_edits(body, cleaned.removed) == cleaned.text
    assert all(0 <= span.start <= span.end <= len(body) for span in cleaned.removed)
    assert all(left.end <= right.start for left, right in pairwise(cleaned.removed))


@settings(max_examples=1000, deadline=None)
@given(MAILS, SUBJECTS)
@example("<p>&amp;lt;p&amp;gt; &amp;amp;lt;br&amp;amp;gt;", "")
@example("".join(f"&{'amp;' * level}lt;p>" for level in range(20)) + "<p>", "")
@example("<<<<b>b>b>b><<br>br>", "")
@example("> > >\n> Am 12.03.2024 um 10:11 schrieb Max <max@example.org>:\n>> Ja", "")
def test_cleaning_its_own_output_changes_nothing(body: str, subject: str) -> None:
    once = clean(body, subject).text

    assert clean(once).text == once


@settings(max_examples=200, deadline=None)
@given(MAILS)
def test_cutting_the_greeting_twice_changes_nothing(body: str) -> None:
    once = clean(body, greeting="cut").text

    assert clean(once, greeting="cut").text == once


NUMBERS = [
    "Meine IBAN ist DE89 3704 0044 0532 0130 00.",
    "Depotnummern 1234567890 und 1234567891",
    "Tel. 0170 1234567 | www.example.org | max@example.org",
    "Kto-Nr.",
    "1234567 4111 1111 1111 1111",
    "Gesendet: 12.03.2024",
    "An: max@example.org",
    "Steuer-ID 86 095 742 719, St.-Nr. 143/123/12345",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(LINES + NUMBERS), max_size=25).map("\n".join), SUBJECTS)
@example("An: a@b.example\n\nTel. 0170 1234567\nwww.x.example | max@x.example\nViele Grüße\nDepot 1234567890", "")
def test_redaction_puts_placeholders_and_cuts_nothing(body: str, subject: str) -> None:
    kept, redacted = clean(body, subject), clean(body, subject, redact=True)

    assert redacted.text == apply_edits(kept.text, redaction_edits(kept.text))
    assert redaction_edits(redacted.text) == []


EDITS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.text("xyz", max_size=3)), max_size=8)


def edits_on(length: int, steps: list[tuple[int, int, str]], kind: str) -> list[Removed]:
    edits, position = [], 0
    for gap, size, replacement in steps:
        start = position + gap
        if start + size > length or not size:
            break
        edits.append(Removed(kind, kind, start, start + size, replacement))
        position = start + size
    return edits


@settings(max_examples=1000, deadline=None)
@given(st.text("abcdef", min_size=5, max_size=30), EDITS, EDITS)
def test_composed_edits_do_what_one_after_the_other_do(
    text: str, first_steps: list[tuple[int, int, str]], second_steps: list[tuple[int, int, str]]
) -> None:
    first = edits_on(len(text), first_steps, "html")
    middle = apply_edits(text, first)
    second = edits_on(len(middle), second_steps, "quote")

    composed = compose(first, second)

    assert apply_edits(text, composed) == apply_edits(middle, second)
    assert all(left.end <= right.start for left, right in pairwise(composed))


def test_another_process_with_another_hash_seed_gives_the_same() -> None:
    body = "\n".join(LINES * 3)
    program = (
        "import sys; from mailtriage.cleaning import clean; cleaned = clean(sys.stdin.buffer.read().decode()); "
        "sys.stdout.buffer.write(repr(cleaned).encode())"
    )

    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=body.encode(),
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("0", "1", "4711")
    }

    assert answers == {repr(clean(body)).encode()}
