"""From one taxonomy to the next: labels go where the history says, and none disappears in silence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mailtriage.errors import TaxonomyError
from mailtriage.examples import Example
from mailtriage.mail import Email
from mailtriage.metrics import UNLABELLED
from mailtriage.migration import Migration, Moved, describe, migrate
from mailtriage.taxonomy import Taxonomy

OLD = """
version: 1
tasks:
  topic: {labels: {fees: {}, deposit: {}, withdrawal: {}, login: {}, fax: {}, order: {}}}
  queue: {labels: {money: {}, access: {}}}
"""
NEW = """
version: 3
tasks:
  topic: {labels: {costs: {}, locked_out: {}, app_error: {}, fax: {state: retired}, order: {}, payment: {}, wallet: {}}}
  queue: {labels: {money: {}, access: {}}}
  urgency: {labels: {high: {}, low: {}}}
valid: all
history:
  - {version: 2, task: topic, change: renamed, from: fees, to: charges}
  - {version: 2, task: topic, change: merged, from: [deposit, withdrawal], to: payment}
  - {version: 3, task: topic, change: renamed, from: charges, to: costs}
  - {version: 3, task: topic, change: split, from: login, to: [locked_out, app_error]}
"""


@pytest.fixture
def migration() -> Migration:
    return Migration.between(Taxonomy.parse(OLD), Taxonomy.parse(NEW))


def _mail(topic: str | None) -> Email:
    return Email("m", "", "text", labels={"topic": topic, "queue": "money"})


def test_changes_are_followed_over_several_versions(migration):
    assert migration.targets["topic"] == {
        "fees": ("costs",),
        "deposit": ("payment",),
        "withdrawal": ("payment",),
        "login": ("locked_out", "app_error"),
        "fax": ("fax",),
        "order": ("order",),
    }
    assert migration.sources("topic")["payment"] == ("deposit", "withdrawal")
    assert migration.sources("topic")["wallet"] == ()
    assert migration.untouched("topic") == ["costs", "fax", "order"]


def test_changes_that_the_old_taxonomy_knows_are_not_made_again():
    new = Taxonomy.parse(NEW)
    unchanged = Migration.between(new, new)
    assert all(reached == (label,) for label, reached in unchanged.targets["topic"].items())


@pytest.mark.parametrize(
    ("before", "after"),
    [("fees", "costs"), ("deposit", "payment"), ("login", None), ("fax", None), ("order", "order"), (None, None)],
)
def test_labels_of_mails_move(migration, before, after):
    moved = next(iter(migrate([_mail(before)], migration, Moved())))
    assert moved.labels == {"topic": after, "queue": "money", "urgency": None}


def test_what_became_of_labels_is_counted(migration):
    counts = Moved()
    topics = ["fees", "deposit", "login", "login", "fax", "order", None]
    assert len(list(migrate(map(_mail, topics), migration, counts))) == counts.mails == 7
    assert (counts.moved["topic"], counts.split["topic"], counts.retired["topic"], counts.kept["topic"]) == (2, 2, 1, 1)
    assert counts.kept["queue"] == 7


def test_a_label_that_vanished_without_a_word_stops_the_migration():
    migration = Migration.between(Taxonomy.parse(OLD), Taxonomy.parse(OLD.replace("order: {}", "orders: {}")))
    assert "  removed  order (not in 'history': say what became of it)" in list(describe(migration))
    with pytest.raises(TaxonomyError, match="'order' of task 'topic' is not in taxonomy 1"):
        list(migrate([_mail("order")], migration, Moved()))


def test_the_difference_reads_well(migration):
    assert list(describe(migration)) == [
        "version 1 -> 3",
        "topic: 1 labels kept",
        "  renamed  fees -> costs",
        "  merged   deposit, withdrawal -> payment",
        "  split    login -> locked_out, app_error",
        "  retired  fax",
        "  new      wallet",
        "queue: 2 labels kept",
        "urgency: the task is new; no old mail has a label for it",
        "valid combinations: all",
        "a model of the old version must be trained again",
    ]


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("from: fees", "from: feess", "no such label, did you mean 'fees'"),
        ("to: costs", "to: cost", "the new taxonomy has no such label, did you mean 'costs'"),
        ("task: topic, change: split", "task: topics, change: split", "a task 'topics', did you mean 'topic'"),
    ],
)
def test_a_history_that_contradicts_the_labels_is_refused(wrong, right, message):
    with pytest.raises(TaxonomyError, match=message):
        Migration.between(Taxonomy.parse(OLD), Taxonomy.parse(NEW.replace(wrong, right)))


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("change: renamed", "change: moved", "renamed, merged, split, found 'moved'"),
        ("from: [deposit, withdrawal]", "from: deposit", "'merged' to go from two labels or more"),
        ("to: [locked_out, app_error]", "to: locked_out", "'split' to go to two labels or more"),
        ("change: split, from: login", "change: split", "to have version, task, change, from, to"),
    ],
)
def test_an_entry_of_the_history_is_checked(wrong, right, message):
    with pytest.raises(TaxonomyError, match=message):
        Taxonomy.parse(NEW.replace(wrong, right))


def test_a_retired_label_is_neither_learnt_nor_measured():
    assert Example("m", "", "", labels={"topic": "fax"}).indices(Taxonomy.parse(NEW)) == (UNLABELLED,) * 3


def test_the_command_writes_mails_and_says_what_moved(tmp_path: Path):
    for name, text in (("old.yaml", OLD), ("new.yaml", NEW)):
        (tmp_path / name).write_text(text)
    rows = [{"id": str(n), "body": "text", "topic": topic} for n, topic in enumerate(["fees", "login", "nonsense"])]
    (tmp_path / "mails.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "mailtriage.cli", "taxonomy", "migrate", "old.yaml", "new.yaml", "mails.jsonl"]

    done = subprocess.run(
        [*command, "--output", "moved.jsonl"], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    moved = [json.loads(line) for line in (tmp_path / "moved.jsonl").read_text().splitlines()]
    assert [mail["topic"] for mail in moved] == ["costs", None]
    assert "topic                0 kept, 1 moved, now without a label: 1 split, 0 retired" in done.stdout
    assert (tmp_path / "moved.quarantine.jsonl").is_file()
