"""Exploration: the sample's wrong labels are found, and the page says what a person must know before training."""

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mailtriage.evaluation import true_labels
from mailtriage.examples import Example
from mailtriage.exploration import conflicts, explore, suspicious_labels
from mailtriage.sample import generate
from mailtriage.splitting import near_duplicate_groups, split

ROWS, SEED = 1200, 5


@pytest.fixture(scope="module")
def wrong():
    """(id, task) of each label that the sample's clerks got wrong."""
    given, right = (generate(ROWS, SEED, missing_labels=0, **options) for options in ({}, {"wrong_labels": 0}))
    return {
        (mail.id, task)
        for mail, truth in zip(given, right, strict=True)
        for task, label in mail.labels.items()
        if label != truth.labels[task]
    }


@pytest.fixture(scope="module")
def output(tmp_path_factory, taxonomy):
    folder = tmp_path_factory.mktemp("explore")
    examples = [Example.from_email(mail) for mail in generate(ROWS, SEED, missing_labels=0)]
    explore(examples, taxonomy, split(examples), folder)
    return folder


@pytest.fixture(scope="module")
def found(output):
    with (output / "suspicious_labels.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_most_wrong_labels_are_found_at_a_useful_precision(found, wrong):
    named = {(row["id"], row["task"]) for row in found}
    assert len(named & wrong) / len(wrong) > 0.6
    assert len(named & wrong) / len(named) > 0.15  # 2 % of all labels are wrong


def test_the_surest_come_first_and_no_text_is_told(found, taxonomy):
    confidences = [float(row["confidence"]) for row in found]
    assert confidences == sorted(confidences, reverse=True)
    assert set(found[0]) == {"id", "task", "given label", "suggested label", "confidence"}
    for row in found:
        assert {row["given label"], row["suggested label"]} <= set(taxonomy.task(row["task"]).label_ids)


def test_the_page_has_pictures_first_and_loads_nothing(output):
    page = (output / "explore.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5
    assert page.index("<img") < page.index("<table")
    assert "http" not in page
    figures = json.loads((output / "explore.json").read_text())
    assert figures["mails"] == ROWS
    assert all(counts["crossing"] == 0 for counts in figures["split"]["groups"].values())


def test_labels_are_counted_by_month(taxonomy, tmp_path):
    times = [datetime(2026, month, 3, tzinfo=UTC) for month in (11, 9, 9, 9)]
    queues = ["trading", "tax", "trading", "tax"]
    mails = [
        Example(str(n), f"Frage {n}", f"Text {n} aus dem Monat", received_at=time, labels={"queue": queue})
        for n, (time, queue) in enumerate(zip([*times, None], [*queues, "tax"], strict=True))
    ]

    explore(mails, taxonomy, split(mails), tmp_path)

    by_month = json.loads((tmp_path / "explore.json").read_text())["labels_by_month"]["queue"]
    assert list(by_month) == ["2026-09", "2026-11", "without a time"]
    some = {month: {label: mails for label, mails in counts.items() if mails} for month, counts in by_month.items()}
    assert some == {"2026-09": {"trading": 1, "tax": 2}, "2026-11": {"trading": 1}, "without a time": {"tax": 1}}
    page = (tmp_path / "explore.html").read_text(encoding="utf-8")
    assert "<tr><td>tax</td><td>2</td><td>0</td><td>1</td><td>3</td></tr>" in page
    assert page.index("<td>tax</td>") < page.index("<td>trading</td>")


def test_near_duplicates_with_different_labels_are_conflicts(taxonomy):
    letter = "Bitte übertragen Sie mein Depot {} bis zum {}. März vollständig auf mein neues Konto bei Ihnen, danke."
    mails = [
        Example(str(n), "", letter.format(n * 1111, n), labels={"queue": queue, "topic": None})
        for n, queue in enumerate(["transfers", "transfers", "complaints"])
    ]
    duplicates = near_duplicate_groups([mail.text for mail in mails])
    assert conflicts(mails, duplicates, taxonomy)["queue"] == {"groups": 1, "mails": 3}
    assert conflicts(mails[:2], duplicates[:2], taxonomy)["queue"] == {"groups": 0, "mails": 0}


@pytest.fixture(scope="module")
def sparse(examples):
    """Mails of which a third lack a label, and none has a topic."""
    return [
        replace(
            mail, labels={task: None if task == "topic" or n % 3 == 0 else label for task, label in mail.labels.items()}
        )
        for n, mail in enumerate(examples)
    ]


def test_missing_labels_are_counted_and_never_suspected(sparse, taxonomy, tmp_path):
    unlabelled = {(task, mail.id) for mail in sparse for task, label in mail.labels.items() if label is None}

    figures = explore(sparse, taxonomy, split(sparse), tmp_path)

    assert figures["missing"]["topic"] == len(sparse)
    assert sum(figures["missing"].values()) == len(unlabelled)
    assert figures["missing"]["queue"] > 100
    for task in taxonomy.tasks:
        assert sum(figures["labels"][task.id].values()) == len(sparse) - figures["missing"][task.id]
    with (tmp_path / "suspicious_labels.csv").open(encoding="utf-8", newline="") as stream:
        suspected = {(row["task"], row["id"]) for row in csv.DictReader(stream)}
    assert suspected
    assert not suspected & unlabelled
    assert figures["conflicts"]["topic"] == {"groups": 0, "mails": 0}
    page = (tmp_path / "explore.html").read_text(encoding="utf-8")
    assert f"{len(sparse):,}</td>" in page


def test_mails_without_any_label_can_be_looked_at(examples, taxonomy, tmp_path):
    mails = [replace(mail, labels={}) for mail in examples[:60]]

    figures = explore(mails, taxonomy, split(mails), tmp_path)

    assert figures["suspicious"] == dict.fromkeys(taxonomy.task_ids, 0)
    assert set(figures["missing"].values()) == {60}


def test_a_label_that_only_copies_of_one_mail_carry_stops_nothing(examples, taxonomy):
    queues = taxonomy.task("queue").label_ids
    other = [replace(mail, labels={"queue": queues[0]}) for mail in examples[:40]]
    copies = [replace(examples[50], id=f"copy-{n}", labels={"queue": queues[1]}) for n in range(15)]
    mails = other + copies

    suspicions = suspicious_labels(mails, taxonomy, true_labels(taxonomy, mails))

    assert {suspicion.task for suspicion in suspicions} <= {"queue"}
