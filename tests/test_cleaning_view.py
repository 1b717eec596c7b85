"""The picture of a cleaned mail, in the terminal and as HTML."""

from __future__ import annotations

import re
from pathlib import Path

from mailtriage.cleaning import clean
from mailtriage.cleaning_view import KINDS, html_view, terminal_view

BODY = "Bitte <b>sofort</b> sperren!<br>Gru&szlig; \x1b[31m<br>Max<br>&gt; alt"


def struck(body: str, markup: bool = False) -> list[tuple[str, str]]:
    view = terminal_view(body, clean(body), markup)
    return [(view.plain[span.start : span.end], str(span.style)) for span in view.spans]


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
