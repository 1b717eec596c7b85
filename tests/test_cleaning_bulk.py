"""Cleaning whole files: in order, on several processes, with rejected rows apart, and in flat memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mailtriage.bulk_cleaning import BATCH, Cleaning, clean_file
from mailtriage.errors import DataError

BODY = "Bitte den Sparplan Nummer {} anpassen.\r\n\r\nMit freundlichen Grüßen\r\nMax Muster\r\n"
TEXT = "Bitte den Sparplan Nummer {} anpassen."


def write_mails(path: Path, count: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            record = {"id": f"m-{number}", "subject": f"AW: Sparplan {number}", "body": BODY.format(number)}
            file.write(json.dumps(record) + "\n")
    return path


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("processes", [1, 2])
def test_every_mail_comes_out_in_order_with_its_spans(tmp_path: Path, processes: int) -> None:
    count = 5 * BATCH + 7
    mails = write_mails(tmp_path / "mails.jsonl", count)
    output = tmp_path / "clean.jsonl"

    result = clean_file(mails, output, processes=processes)

    rows = read(output)
    assert result == Cleaning(mails=count, rejected=0)
    assert [(row["id"], row["subject"], row["text"]) for row in rows] == [
        (f"m-{number}", f"Sparplan {number}", TEXT.format(number)) for number in range(count)
    ]
    assert rows[0]["removed"] == [
        {"kind": "whitespace", "rule": "white_space", "start": 37, "end": 41},
        {"kind": "signature", "rule": "closing", "start": 41, "end": 78},
    ]


def test_rejected_rows_go_to_the_quarantine_file(tmp_path: Path) -> None:
    mails = tmp_path / "mails.jsonl"
    mails.write_text('{"id": "a", "body": "Frage"}\nkaputt\n{"id": "a", "body": "Frage"}\n', encoding="utf-8")

    result = clean_file(mails, tmp_path / "clean.jsonl", quarantine=tmp_path / "quarantine.jsonl")

    assert result == Cleaning(mails=1, rejected=2)
    assert [(row["row"], row["code"]) for row in read(tmp_path / "quarantine.jsonl")] == [
        (2, "bad_json"),
        (3, "duplicate_id"),
    ]


def test_progress_counts_every_row_and_says_the_share(tmp_path: Path) -> None:
    mails = write_mails(tmp_path / "mails.jsonl", 2 * BATCH + 1)
    seen: list[tuple[int, float]] = []

    clean_file(mails, tmp_path / "clean.jsonl", processes=1, progress=lambda *at: seen.append(at))

    assert [rows for rows, _ in seen] == [BATCH, 2 * BATCH, 2 * BATCH + 1]
    first, second, last = (share for _, share in seen)
    assert 0.4 < first < 0.6 < second <= last == 1.0


def test_options_reach_the_cleaning(tmp_path: Path) -> None:
    mails = tmp_path / "mails.jsonl"
    mails.write_text('{"id": "a", "body": "Hallo,\\nmeine Nummer ist 0170 1234567."}\n', encoding="utf-8")

    clean_file(mails, tmp_path / "clean.jsonl", greeting="cut", redact=True)

    assert read(tmp_path / "clean.jsonl")[0]["text"] == "meine Nummer ist [PHONE]."


def test_what_reading_left_alone_is_in_the_row(tmp_path: Path) -> None:
    mails = tmp_path / "mail.eml"
    mails.write_bytes(
        b"Content-Type: multipart/mixed; boundary=rand\n\n--rand\nContent-Type: text/plain\n\nFrage\n"
        b"--rand\nContent-Type: application/ms-tnef; name=winmail.dat\n\nxx\n--rand--\n"
    )

    clean_file(mails, tmp_path / "clean.jsonl")

    assert read(tmp_path / "clean.jsonl")[0]["notes"] == ["winmail.dat (Outlook's own format, TNEF) was left alone"]


def test_a_file_that_breaks_off_leaves_no_output(tmp_path: Path) -> None:
    mails = tmp_path / "mails.jsonl.gz"
    mails.write_bytes(b"kein gzip")

    with pytest.raises(DataError):
        clean_file(mails, tmp_path / "clean.jsonl")

    assert [path.name for path in tmp_path.iterdir()] == ["mails.jsonl.gz"]


PEAK = """
import resource, sys
from mailtriage.bulk_cleaning import clean_file
if __name__ == "__main__":
    clean_file(sys.argv[1], sys.argv[2], processes=int(sys.argv[3]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # of this process, not of those that it started
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in KiB, which is what Linux reports")
@pytest.mark.parametrize("processes", [1, 2])
def test_ten_times_the_mails_need_hardly_more_memory(tmp_path: Path, processes: int) -> None:
    program = tmp_path / "peak.py"  # a file: processes that are spawned read it again
    program.write_text(PEAK, encoding="utf-8")

    def peak(count: int) -> int:
        mails = write_mails(tmp_path / f"{count}.jsonl", count)
        command = [sys.executable, str(program), str(mails), str(tmp_path / "clean.jsonl"), str(processes)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        return int(subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout)

    small, large = peak(2_000), peak(20_000)

    assert large - small < 4_000  # KiB; the ids seen take 16 bytes each
