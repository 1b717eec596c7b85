"""The picture of a cleaned mail, in the terminal and as HTML."""

from __future__ import annotations

import html
import re
from pathlib import Path

from mailtriage.cleaning import clean
from mailtriage.cleaning_view import KINDS, html_page, html_view, terminal_view
from mailtriage.mail import Email
from mailtriage.readers import Rejected, read_mails

FIXTURES = Path(__file__).parent / "fixtures" / "mails"

SYMBOLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
BODY = "Bitte <b>sofort</b> sperren!<br>Gru&szlig; \x1b[31m<br>Max<br>&gt; alt"


def struck(body: str, markup: bool = False) -> list[tuple[str, str]]:
    view = terminal_view(body, clean(body), markup)
    parts = [(view.plain[span.start : span.end], str(span.style)) for span in view.spans]
    return [(part, style) for part, style in parts if part.strip()]


def test_removed_lines_are_struck_out_in_the_colour_of_their_kind() -> None:
    body = "Karte sperren!\n\nGruß\nMax\n\nGesendet von meinem iPhone"

    assert struck(body)[:2] == [
        ("Gruß\nMax\n", "strike magenta"),
        ("Gesendet von meinem iPhone", "strike green"),
    ]


def test_the_text_without_what_is_struck_is_the_cleaned_text() -> None:
    body = "Karte sperren!\n\nGruß\nMax\n\n> alte Frage\n\nGesendet von meinem iPhone"
    cleaned = clean(body)

    shown = html_view(body, cleaned)

    kept = re.sub(r"<del.*?</del>", "", shown.split("</pre>")[0], flags=re.DOTALL)
    assert re.sub(r"<[^>]*>", "", kept) == cleaned.text


def test_cut_white_space_does_not_run_words_together() -> None:
    plain = "Karte sperren!\n\nGruß\nMax\n\nMuster GmbH, Amtsgericht Köln HRB 4711\n\nGesendet von meinem iPhone\n"
    markup = "<div>Karte sperren!<br><br>Gesendet von meinem iPhone</div><blockquote type=cite>Wann?</blockquote>"

    assert terminal_view(plain, clean(plain)).plain.split("\n")[:8] == [
        *("Karte sperren!", "", "Gruß", "Max", "", "Muster GmbH, Amtsgericht Köln HRB 4711", ""),
        "Gesendet von meinem iPhone",
    ]
    assert terminal_view(markup, clean(markup)).plain.split("\n")[:4] == [
        *("Karte sperren!", "", "Gesendet von meinem iPhone", "Wann?")
    ]


def test_what_is_not_struck_is_the_cleaned_text_of_every_mail() -> None:
    for mail in read_mails(FIXTURES):
        assert not isinstance(mail, Rejected)
        cleaned = clean(mail.body, mail.subject)

        shown = html_view(mail.body, cleaned).split("</pre>")[0].removeprefix('<pre class="mail">')

        kept = html.unescape(re.sub(r"<del.*?</del>", "", shown, flags=re.DOTALL))
        assert kept.translate(SYMBOLS) == cleaned.text.translate(SYMBOLS), mail.id


def test_what_reading_left_alone_is_noted_below_the_mail() -> None:
    mail = Email("a", "Auszug", "Der Auszug fehlt.", notes=("winmail.dat & mehr",))
    cleaned = clean(mail.body, mail.subject)

    assert "Note: winmail.dat & mehr" in terminal_view(mail.body, cleaned, notes=mail.notes).plain
    assert "Note: winmail.dat &amp; mehr" in "".join(html_page([(mail, cleaned)]))


def test_a_page_holds_every_mail_and_fetches_nothing() -> None:
    mails = [mail for mail in read_mails(FIXTURES) if not isinstance(mail, Rejected)]

    page = "".join(html_page((mail, clean(mail.body, mail.subject)) for mail in mails))

    assert page.count("<article>") == len(mails)
    assert not re.search(r"<(?:script|link|img|iframe)\b|@import|url\(", page)
    assert {kind for kind in KINDS if f'<del class="{kind}"' in page} >= {"quote", "signature", "legal_footer"}


def test_markup_is_shown_only_when_asked_for() -> None:
    assert not any("<b>" in part for part, _ in struck(BODY))
    assert any("<b>" in part for part, _ in struck(BODY, markup=True))


def test_the_terminal_gets_no_control_characters() -> None:
    assert "\x1b" not in terminal_view(BODY, clean(BODY), markup=True).plain


def test_html_escapes_the_mail_and_names_kind_and_rule() -> None:
    body = 'Text & <script\n\n-- \nMax "<img src=x>" Muster'

    shown = html_view(body, clean(body))

    assert "<script" not in shown
    assert "<img" not in shown
    assert 'title="signature: delimiter"' in shown


def test_a_last_resort_is_said() -> None:
    body = "> nur ein Zitat"

    assert "best block was kept" in terminal_view(body, clean(body)).plain
    assert "best block was kept" in html_view(body, clean(body))


def test_every_kind_that_a_rule_gives_has_a_colour() -> None:
    import mailtriage.cleaning

    cleaning = Path(mailtriage.cleaning.__file__)
    given = set()
    for module in (cleaning, *cleaning.with_name("cleaning_rules").glob("*.py")):
        source = module.read_text(encoding="utf-8")
        given |= set(re.findall(r'cut = \("(\w+)", ', source)) | set(re.findall(r'Removed\(\s*"(\w+)", ', source))

    assert given
    assert given <= KINDS.keys()
