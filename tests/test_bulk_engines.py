"""The cleaning step gives the same file on one process, on several, and on Ray Data, also when a worker dies."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from mailtriage import bulk_cleaning
from mailtriage.bulk_cleaning import in_order
from mailtriage.errors import DataError
from mailtriage.examples import read_examples
from mailtriage.ingestion import clean_mails
from mailtriage.mail import Email
from mailtriage.ray_cleaning import in_order_on_ray

TASKS = ("line_of_business", "queue", "topic")
SMALL = 4096  # bytes a part, so that lines cross from one part to the next


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, mails: list[Email]) -> Path:
    path = tmp_path_factory.mktemp("mails") / "mails.jsonl"
    long = Email("long", "lang", "wort " * 5000)
    rows = [json.dumps(mail.to_record(), ensure_ascii=False) for mail in [*mails[:150], long, *mails[150:300]]]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def expected(file: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("expected") / "examples.jsonl"
    assert clean_mails(file, TASKS, output, processes=1) == 301
    return output.read_bytes()


def dies_once(marker: Path, number: int) -> int:
    """Work whose process is killed at the first try, as by a machine that runs out of memory."""
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), 9)
    return number * number


def always_dies(number: int) -> int:
    os.kill(os.getpid(), 9)
    return number


def test_parts_of_a_file_give_every_mail_once_and_in_order(
    file: Path, expected: bytes, tmp_path: Path, mails: list[Email]
) -> None:
    clean_mails(file, TASKS, tmp_path / "parts.jsonl", processes=1, part_bytes=SMALL)

    assert (tmp_path / "parts.jsonl").read_bytes() == expected
    ids = [example.id for example in read_examples(tmp_path / "parts.jsonl")]
    assert ids == [*(mail.id for mail in mails[:150]), "long", *(mail.id for mail in mails[150:300])]


def test_processes_give_the_same_file(file: Path, expected: bytes, tmp_path: Path) -> None:
    clean_mails(file, TASKS, tmp_path / "two.jsonl", processes=2, part_bytes=64 * 1024)

    assert (tmp_path / "two.jsonl").read_bytes() == expected


def test_a_row_that_is_no_mail_is_named_by_its_number(file: Path, tmp_path: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    broken = tmp_path / "mails.jsonl"
    broken.write_text("\n".join([*lines[:200], "{", *lines[200:]]) + "\n", encoding="utf-8")

    with pytest.raises(DataError, match="row 201: expected a mail"):
        clean_mails(broken, TASKS, tmp_path / "examples.jsonl", processes=1, part_bytes=SMALL)


def test_what_a_dead_process_was_at_is_done_by_another(tmp_path: Path) -> None:
    results = list(in_order(partial(dies_once, tmp_path / "died"), range(20), processes=2))

    assert (tmp_path / "died").exists()
    assert results == [number * number for number in range(20)]


def test_processes_that_die_again_and_again_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_cleaning, "RESTARTS", 0)

    with pytest.raises(DataError, match="too little memory"):
        list(in_order(always_dies, range(4), processes=2))


def test_ray_gives_the_same_file_and_does_again_what_a_dead_worker_was_at(
    file: Path, expected: bytes, tmp_path: Path
) -> None:
    import ray

    def dies_once_on_ray(number: int) -> int:  # in here, so that Ray sends it by value
        if number == 1 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), 9)
        return number * number

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        rows = clean_mails(file, TASKS, tmp_path / "ray.jsonl", ray_address="local", part_bytes=64 * 1024)
        squares = list(in_order_on_ray(dies_once_on_ray, range(4), "local"))
    finally:
        ray.shutdown()

    assert rows == 301
    assert (tmp_path / "ray.jsonl").read_bytes() == expected
    assert (tmp_path / "died").exists()
    assert squares == [0, 1, 4, 9]
