"""Examples between pipeline steps."""

from dataclasses import replace
from pathlib import Path

import pytest

from mailtriage.errors import DataError, TaxonomyError
from mailtriage.examples import Example, data_hash, guess_language, read_examples, write_examples
from mailtriage.mail import Email
from mailtriage.metrics import UNLABELLED
from mailtriage.taxonomy import Taxonomy


def test_examples_survive_the_way_through_a_file(tmp_path: Path, examples: list[Example]) -> None:
    path = tmp_path / "deep" / "examples.jsonl"

    assert write_examples(path, examples) == len(examples)
    assert list(read_examples(path)) == examples


def test_a_thread_changes_neither_the_hash_nor_files_without_it(tmp_path: Path) -> None:
    mail = Email("1", "Frage", "Wo bleibt mein Geld?")
    without, with_thread = (Example.from_email(each) for each in (mail, replace(mail, thread_id="t")))

    write_examples(tmp_path / "examples.jsonl", [without, with_thread])

    lines = (tmp_path / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    assert ["thread_id" in line for line in lines] == [False, True]
    assert [mail.thread_id for mail in read_examples(tmp_path / "examples.jsonl")] == [None, "t"]
    assert data_hash([without]) == data_hash([with_thread])


def test_an_example_is_what_serving_would_see() -> None:
    mail = Email(
        "1", "AW: Frage", "Wo bleibt mein Geld?\n\n-- \nErika Muster\nTel. 030 123456", labels={"queue": "tax"}
    )

    example = Example.from_email(mail)

    assert example.text == "Wo bleibt mein Geld?"
    assert example.subject == "Frage"
    assert "signature" in example.removed_kinds
    assert example.labels == {"queue": "tax"}


def test_a_foreign_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text('{"id": 1}\n')

    with pytest.raises(DataError, match="row 1"):
        list(read_examples(path))


def test_missing_labels_are_masked_and_unknown_ones_name_the_mail(taxonomy: Taxonomy) -> None:
    first = taxonomy.tasks[0].label_ids[0]

    assert Example("m", "", "x", labels={"line_of_business": first}).indices(taxonomy) == (0, UNLABELLED, UNLABELLED)
    with pytest.raises(TaxonomyError, match="mail 'm': task 'queue' has no label 'nonsense'"):
        Example("m", "", "x", labels={"queue": "nonsense"}).indices(taxonomy)


@pytest.mark.parametrize(
    ("text", "language"),
    [("Ich möchte die Order bitte nicht", "de"), ("Please cancel the order for me", "en"), ("4711", None)],
)
def test_language_is_guessed_from_common_words(text: str, language: str | None) -> None:
    assert guess_language(text) == language
