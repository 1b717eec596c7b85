"""Exploration: the sample's wrong labels are found, and the page says what a person must know before training."""

import csv
import json

import pytest

from mailtriage.examples import Example
from mailtriage.exploration import conflicts, explore
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


def test_near_duplicates_with_different_labels_are_conflicts(taxonomy):
    letter = "Bitte übertragen Sie mein Depot {} bis zum {}. März vollständig auf mein neues Konto bei Ihnen, danke."
    mails = [
        Example(str(n), "", letter.format(n * 1111, n), labels={"queue": queue, "topic": None})
        for n, queue in enumerate(["transfers", "transfers", "complaints"])
    ]
    duplicates = near_duplicate_groups([mail.text for mail in mails])
    assert conflicts(mails, duplicates, taxonomy)["queue"] == {"groups": 1, "mails": 3}
    assert conflicts(mails[:2], duplicates[:2], taxonomy)["queue"] == {"groups": 0, "mails": 0}
