"""Splits: no near-duplicate on two sides, shares kept, repeatable."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from mailtriage.errors import ConfigError
from mailtriage.examples import Example
from mailtriage.mail import Email
from mailtriage.readers import read_mails
from mailtriage.splitting import crossings, near_duplicate_groups, split


def _example(number: int, text: str, topic: str = "a") -> Example:
    return Example(id=str(number), subject="", text=text, labels={"topic": topic})


def _unrelated(number: int) -> str:
    return " ".join(
        f"wort{chr(97 + (number * step) % 26)}{chr(97 + number % 26)}{chr(97 + number // 26)}" for step in range(3, 23)
    )


def test_form_letters_that_differ_in_numbers_are_one_group() -> None:
    letter = (
        "Bitte übertragen Sie mein Depot {} bis zum {}. März vollständig auf mein neues Konto bei Ihnen, vielen Dank."
    )
    texts = [letter.format(11111, 1), letter.format(98765, 30), "Wann wird mein Sparplan ausgeführt, ich sehe nichts?"]

    groups = near_duplicate_groups(texts)

    assert groups[0] == groups[1] != groups[2]


def test_no_group_stands_on_two_sides() -> None:
    copies = [_example(i * 10 + c, f"{_unrelated(i)} {'gruss' * c}") for i in range(60) for c in range(4)]

    parts = split(copies)

    texts = [{e.text.partition(" ")[0] for e in part} for part in parts]
    groups = near_duplicate_groups([e.text for part in parts for e in part])
    ends = [0, len(parts.train), len(parts.train) + len(parts.validation), len(groups)]
    sides = [set(groups[start:end]) for start, end in pairwise(ends)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert all(texts)


def test_shares_and_labels_are_kept() -> None:
    examples = [_example(i, _unrelated(i), "rare" if i % 10 == 0 else "common") for i in range(600)]

    parts = split(examples, (0.8, 0.1, 0.1))

    assert [len(part) for part in parts] == pytest.approx([480, 60, 60], abs=12)
    assert sum(e.labels["topic"] == "rare" for e in parts.test) == pytest.approx(6, abs=3)


def test_the_same_seed_gives_the_same_split() -> None:
    examples = [_example(i, _unrelated(i)) for i in range(100)]

    assert split(examples, seed=3) == split(examples, seed=3)
    assert split(examples, seed=3) != split(examples, seed=4)


def test_shares_must_add_up() -> None:
    with pytest.raises(ConfigError, match="add up to 1"):
        split([], (0.5, 0.1, 0.1))


def test_every_label_of_every_task_has_its_share() -> None:
    examples = [
        replace(
            _example(i, _unrelated(i)), labels={"topic": "abcde"[i % 5], "queue": "rare" if i % 20 == 3 else "usual"}
        )
        for i in range(600)
    ]

    parts = split(examples)

    assert [sum(e.labels["queue"] == "rare" for e in part) for part in parts] == [24, 3, 3]
    assert all(abs(sum(e.labels["topic"] == topic for e in parts.test) - 12) <= 1 for topic in "abcde")


def test_mails_about_one_case_stay_together() -> None:
    examples = [replace(_example(i, _unrelated(i)), subject=f"AW: Vorgang 40012{i % 40:03}") for i in range(400)]

    parts = split(examples)

    counted = crossings({"train": parts.train, "validation": parts.validation, "test": parts.test})
    assert counted["groups"]["threads"] == {"all": 40, "crossing": 0}
    assert parts.groups == 40


def _answers(folder: Path, headers: Sequence[str]) -> list[Example]:
    """Mails of .eml files, each of other words; `headers` of mail n, whose Message-ID is <n@a.example>."""
    for number, lines in enumerate(headers):
        mail = f"Message-ID: <{number}@a.example>\n{lines}Subject: Frage\n\n{_unrelated(number)}\n"
        (folder / f"{number:03}.eml").write_text(mail, encoding="utf-8")
    return [Example.from_email(mail) for mail in read_mails(folder) if isinstance(mail, Email)]


def test_answers_without_a_number_stay_with_their_thread(tmp_path: Path) -> None:
    ways = (
        "",
        "References: <{0}@a.example>\nIn-Reply-To: <{0}@a.example>\n",
        "References: <{0}@a.example>\n <{1}@a.example>\nIn-Reply-To: <{1}@a.example>\n",
        "In-Reply-To: Ihre Nachricht <{2}@a.example>\n",  # its mail program keeps no References
    )
    headers = [ways[n % 4].format(*range(n - n % 4, n - n % 4 + 4)) for n in range(160)]
    mails = _answers(tmp_path, headers)

    for method in ("random", "time"):
        parts = split(mails, (0.5, 0.25, 0.25), method=method)

        sides = [{int(mail.id.partition("@")[0]) // 4 for mail in part} for part in parts]
        assert [len(mails) for mails in sides] == [20, 10, 10]
        assert len(set.union(*sides)) == 40
        named = dict(zip(("train", "validation", "test"), parts, strict=True))
        assert crossings(named)["groups"]["threads"] == {"all": 40, "crossing": 0}


def test_a_thread_that_crosses_is_counted() -> None:
    ask, answer, other = (_example(i, _unrelated(i)) for i in range(3))
    parts = {"train": [replace(ask, thread_id="t"), other], "test": [replace(answer, thread_id="t")]}

    assert crossings(parts)["groups"]["threads"] == {"all": 1, "crossing": 1}


def test_a_counter_of_mails_is_not_taken_for_one_of_threads() -> None:
    """Mail 7 is of thread 3, and mail 3 of thread 1: no reason to put them together."""
    mails = [replace(_example(i, _unrelated(i)), thread_id=str(i // 2)) for i in range(200)]

    assert split(mails).groups == 100


def test_crossing_groups_are_counted_and_not_believed() -> None:
    letter = "Bitte übertragen Sie mein Depot {} bis zum {}. März vollständig auf mein neues Konto bei Ihnen, danke."
    train = [_example(1, letter.format(11111, 1)), _example(2, _unrelated(2)), _example(3, _unrelated(3))]
    test = [_example(4, letter.format(98765, 30)), _example(2, _unrelated(4)), _example(5, _unrelated(3).upper())]

    groups = crossings({"train": train, "test": test})["groups"]

    assert {name: counts["crossing"] for name, counts in groups.items()} == {
        "ids": 1,
        "identical_texts": 1,
        "near_duplicates": 2,
        "threads": 0,
    }


def test_a_split_by_time_tests_on_the_newest() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    examples = [
        replace(_example(i, _unrelated(i)), received_at=start + timedelta(hours=(i * 37) % 300)) for i in range(300)
    ]

    parts = split(examples, method="time")

    assert [len(part) for part in parts] == [240, 30, 30]
    times = [[e.received_at for e in part if e.received_at] for part in parts]
    assert max(times[0]) < min(times[1]) < max(times[1]) < min(times[2])
    assert crossings({"train": parts.train})["parts"]["train"]["first"] == "2026-01-01"
