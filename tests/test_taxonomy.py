"""The taxonomy: what a file may say, what it may not, and the one that ships."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mailtriage.errors import TaxonomyError
from mailtriage.taxonomy import Taxonomy

SHIPPED = Path(__file__).parents[1] / "taxonomy.yaml"

SMALL = """
version: 1
tasks:
  line: {name: {de: Feld, en: Line}, labels: {shares: {name: {de: Aktien}}, coins: {}}}
  topic: {labels: {order: {hint: about orders}, wallet: {}, fax: {state: retired}}}
valid:
  shares: [order, fax]
  coins: [order, wallet]
"""


def test_numbers_labels_in_the_order_of_the_file() -> None:
    taxonomy = Taxonomy.parse(SMALL)

    assert taxonomy.task_ids == ("line", "topic")
    assert taxonomy.task("topic").label_ids == ("order", "wallet", "fax")
    assert taxonomy.task("topic").index("wallet") == 1
    assert taxonomy.version == "1"


def test_reads_names_states_and_hints() -> None:
    topic = Taxonomy.parse(SMALL).task("topic")

    assert [label.state for label in topic.labels] == ["active", "active", "retired"]
    assert topic.labels[0].hint == "about orders"
    assert topic.labels[1].name == {"en": "wallet"}


def test_valid_indices_leave_out_combinations_with_a_retired_label() -> None:
    taxonomy = Taxonomy.parse(SMALL)

    assert taxonomy.valid_indices.tolist() == [[0, 0], [1, 0], [1, 1]]


def test_tells_valid_combinations_from_others() -> None:
    taxonomy = Taxonomy.parse(SMALL)

    assert taxonomy.is_valid({"line": "coins", "topic": "wallet"})
    assert not taxonomy.is_valid({"line": "shares", "topic": "wallet"})


def test_without_valid_every_combination_of_active_labels_is_allowed() -> None:
    taxonomy = Taxonomy.parse(SMALL.split("valid:", maxsplit=1)[0])

    assert taxonomy.is_valid({"line": "shares", "topic": "wallet"})
    assert taxonomy.valid_indices.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_digest_follows_what_a_model_depends_on_and_nothing_else() -> None:
    digest = Taxonomy.parse(SMALL).digest

    assert Taxonomy.parse(SMALL.replace("de: Aktien", "de: Papiere").replace("about orders", "")).digest == digest
    assert Taxonomy.parse(SMALL.replace("coins: [order, wallet]", "coins: [wallet]")).digest != digest
    assert Taxonomy.parse(SMALL.replace("state: retired", "state: active")).digest != digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [", "this is no YAML"),
        ("just a text", "expected a mapping"),
        (SMALL.replace("version: 1", ""), "'version' is missing"),
        (SMALL.replace("version: 1", "version: 1\nvaild: all"), "unknown key 'vaild', did you mean 'valid'"),
        (SMALL.replace("hint:", "hnt:"), "unknown key 'hnt', did you mean 'hint'"),
        (SMALL.replace("retired", "gone"), "'active' or 'retired', found 'gone'"),
        (SMALL.replace("[order, wallet]", "[order, walet]"), "no label 'walet', did you mean 'wallet'"),
        (SMALL.replace("[order, wallet]", "[order, order]"), "a combination twice: coins/order"),
        (SMALL.replace("[order, wallet]", "[order]"), "no valid combination uses the active labels of 'topic': wallet"),
        (SMALL.replace("[order, wallet]", "order"), "expected 'valid' at coins to be a list of labels"),
        (SMALL.replace("labels: {order", "lables: {order"), "expected task 'topic' to have 'labels'"),
    ],
)
def test_refuses_a_taxonomy_that_contradicts_itself(text: str, message: str) -> None:
    with pytest.raises(TaxonomyError) as refused:
        Taxonomy.parse(text)

    assert message in str(refused.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("version: 2", encoding="utf-8")

    with pytest.raises(TaxonomyError, match=r"cannot read the taxonomy .*absent\.yaml"):
        Taxonomy.load(tmp_path / "absent.yaml")
    with pytest.raises(TaxonomyError, match=r"broken\.yaml: 'tasks' is missing"):
        Taxonomy.load(broken)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(TaxonomyError, match="no task 'topics', did you mean 'topic'"):
        Taxonomy.parse(SMALL).task("topics")


def test_the_shipped_taxonomy_has_three_tasks_with_german_and_english_names() -> None:
    taxonomy = Taxonomy.load(SHIPPED)

    assert taxonomy.task_ids == ("line_of_business", "queue", "topic")
    assert [len(task.labels) for task in taxonomy.tasks] == [5, 9, 26]
    for task in taxonomy.tasks:
        assert set(task.name) == {"de", "en"}
        for label in task.labels:
            assert set(label.name) == {"de", "en"}, label.id
            assert label.hint.endswith((".", "?")), label.id


def test_the_shipped_taxonomy_lists_each_combination_once_and_in_label_order() -> None:
    taxonomy = Taxonomy.load(SHIPPED)
    written = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["valid"]

    assert len(taxonomy.valid_indices) == sum(len(topics) for queues in written.values() for topics in queues.values())
    assert list(written) == list(taxonomy.task("line_of_business").label_ids)
