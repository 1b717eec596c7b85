"""Reading files of mails: every row becomes a mail or a rejected row."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mailtriage.errors import DataError
from mailtriage.mail import Email
from mailtriage.readers import Reading, Rejected, _SeenIds, read_mails, write_rejected

ROWS: list[dict[str, Any]] = [
    {
        "id": "m-1",
        "subject": "Depotübertrag",
        "body": "Bitte übertragen Sie mein Depot.",
        "custodian_bank": "Musterbank",
        "received_at": "2024-03-12T10:11:00+00:00",
        "queue": "transfers",
    },
    {"id": "m-2", "subject": "", "body": "Wo finde ich die Steuerbescheinigung?", "queue": None},
]
MAILS = [
    Email(
        "m-1",
        "Depotübertrag",
        "Bitte übertragen Sie mein Depot.",
        datetime(2024, 3, 12, 10, 11, tzinfo=UTC),
        "Musterbank",
        {"queue": "transfers"},
    ),
    Email("m-2", "", "Wo finde ich die Steuerbescheinigung?", labels={"queue": None}),
]
MESSAGE = b"Message-ID: <a@example.org>\nSubject: Hallo\n\nGuten Tag\n"


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, delimiter: str) -> Path:
    lines = [
        delimiter.join(("id", "subject", "body", "received_at", "custodian_bank", "queue")),
        delimiter.join(
            (
                "m-1",
                "Depotübertrag",
                '"Bitte übertragen Sie mein Depot."',
                "2024-03-12T10:11:00+00:00",
                "Musterbank",
                "transfers",
            )
        ),
        delimiter.join(("m-2", "", "Wo finde ich die Steuerbescheinigung?", "", "", "")),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def write_parquet(path: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra 'train'")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [row | {"received_at": None} for row in ROWS]
    rows[0]["received_at"] = datetime(2024, 3, 12, 10, 11, tzinfo=UTC)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def compressed(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def mails_of(path: Path) -> list[Email | Rejected]:
    return list(read_mails(path, ["queue"]))


@pytest.mark.parametrize(
    "name", ["mails.jsonl", "mails.json", "comma.csv", "semicolon.csv", "tab.csv", "mails.parquet"]
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_every_table_format_gives_the_same_mails(tmp_path: Path, name: str, packed: bool) -> None:
    path = tmp_path / name
    if path.suffix == ".jsonl":
        write_jsonl(path, ROWS)
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif path.suffix == ".csv":
        write_csv(path, {"comma": ",", "semicolon": ";", "tab": "\t"}[path.stem])
    else:
        write_parquet(path)

    assert mails_of(compressed(path) if packed else path) == MAILS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("CRM-7", "CRM-7"),
        (" 7 ", "7"),
        (7, "7"),
        (float("nan"), None),
        ("", None),
        (None, None),
        (["7"], None),
        (True, None),
        ("\ud83d", "?"),
    ],
)
def test_a_thread_is_a_text_or_a_number_and_never_a_reason_to_reject(
    tmp_path: Path, value: Any, expected: str | None
) -> None:
    path = tmp_path / "mails.jsonl"
    path.write_text(json.dumps(ROWS[0] | {"thread_id": value}), encoding="utf-8")

    (mail,) = mails_of(path)

    assert mail == replace(MAILS[0], thread_id=expected)
    assert isinstance(mail, Email)
    assert Email.from_record(mail.to_record(), ["queue"]) == mail


@pytest.mark.parametrize("name", ["mails.csv", "mails.parquet"])
def test_tables_have_a_column_for_threads(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".csv":
        path.write_text("id,body,thread_id\n1,Frage,7\n2,Antwort,7\n3,Anderes,\n", encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra 'train'")
        table = {"id": ["1", "2", "3"], "body": ["Frage", "Antwort", "Anderes"], "thread_id": [7, 7, None]}
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(table), path)

    assert [mail.thread_id for mail in read_mails(path) if isinstance(mail, Email)] == ["7", "7", None]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"id": "x", "body": "offen', "bad_json"),
        (b"[" * 100_000, "bad_json"),
        (b'{"id": "x", "body": "Gr\xfc\xdfe"}', "bad_encoding"),
        (b'{"id": "x", "body": "halb \\ud83d"}', "bad_encoding"),
        (b'["kein Objekt"]', "wrong_type"),
        (b'{"id": "x", "subject": " ", "body": ""}', "no_text"),
        (b'{"id": "m-1", "body": "noch einmal"}', "duplicate_id"),
        (b'{"body": "ohne Kennung"}', "wrong_type"),
        (b'{"id": "x", "body": 5}', "wrong_type"),
        (b'{"id": "x", "body": "Text", "received_at": "gestern"}', "wrong_type"),
    ],
)
def test_a_bad_line_is_rejected_with_its_number_and_the_others_are_read(tmp_path: Path, line: bytes, code: str) -> None:
    path = write_jsonl(tmp_path / "mails.jsonl", [ROWS[0]])
    path.write_bytes(path.read_bytes() + b"\n" + line + b"\n" + json.dumps(ROWS[1]).encode() + b"\n")

    first, bad, last = mails_of(path)

    assert [first, last] == MAILS
    assert isinstance(bad, Rejected)
    assert (bad.row, bad.code, bad.source) == (3, code, "mails.jsonl")


def test_a_reason_never_holds_the_text_of_the_mail(tmp_path: Path) -> None:
    secret = "GEHEIMNIS"
    lines = [
        f'{{"id": "{secret}", "body": "{secret}',
        f'["{secret}"]',
        f'{{"id": "a", "body": ["{secret}"]}}',
        f'{{"id": "b", "body": "x", "received_at": "{secret}"}}',
        f'{{"id": "{secret}", "body": "x"}}',
        f'{{"id": "{secret}", "body": "x"}}',
    ]
    path = tmp_path / "mails.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")

    rejected = [row for row in read_mails(path) if isinstance(row, Rejected)]

    assert len(rejected) == 5
    assert not any(secret in str(row) for row in rejected)


def test_the_quarantine_file_says_where_and_why(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mails.jsonl", [ROWS[0], {"id": "leer"}])
    quarantine = tmp_path / "quarantine.jsonl"

    count = write_rejected(quarantine, (row for row in read_mails(path) if isinstance(row, Rejected)))

    assert count == 1
    assert json.loads(quarantine.read_text(encoding="utf-8")) == {
        "source": "mails.jsonl",
        "row": 2,
        "code": "no_text",
        "reason": "expected a text in 'subject' or 'body', found none",
    }


def test_a_csv_row_with_too_many_cells_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "mails.csv"
    path.write_text("id;body\n1;erste\n2;zweite;zuviel\n3;dritte\n", encoding="utf-8")

    rows = list(read_mails(path))

    assert [row.id if isinstance(row, Email) else (row.row, row.code) for row in rows] == ["1", (2, "bad_csv"), "3"]


def test_broken_bytes_in_csv_reject_their_row(tmp_path: Path) -> None:
    path = tmp_path / "mails.csv"
    path.write_bytes(b"id,body\n1,Gr\xfc\xdfe\n2,gut\n")

    rows = list(read_mails(path))

    assert [row.id if isinstance(row, Email) else (row.row, row.code) for row in rows] == [(1, "bad_encoding"), "2"]


def test_an_mbox_is_split_at_its_from_lines_and_unescaped(tmp_path: Path) -> None:
    path = tmp_path / "archive.mbox"
    path.write_bytes(
        b"From a@example.org Tue Mar 12 10:11:12 2024\n"
        + MESSAGE
        + b"\n>From hier an folgt Text\nFrom Herzen\n\n"
        + b"From b@example.org Tue Mar 12 10:12:12 2024\nSubject: Zweite\n\nText\n"
    )

    first, second = read_mails(path)

    assert isinstance(first, Email)
    assert isinstance(second, Email)
    assert (first.id, first.body) == ("a@example.org", "Guten Tag\n\nFrom hier an folgt Text\nFrom Herzen\n\n")
    assert (second.id, second.subject) == ("archive.mbox:2", "Zweite")


def test_a_folder_is_read_in_order_and_a_broken_file_does_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "b.eml").write_bytes(MESSAGE)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.json").write_text("{kaputt", encoding="utf-8")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nicht wirklich")
    (tmp_path / "notes.txt").write_text("keine Mail", encoding="utf-8")
    write_jsonl(tmp_path / "z.jsonl", ROWS)

    rows = list(read_mails(tmp_path))

    found = [row.id if isinstance(row, Email) else (row.source, row.row, row.code) for row in rows]
    assert found == [
        ("a.parquet", 0, "unreadable_file"),
        "a@example.org",
        ("deep/c.json", 0, "unreadable_file"),
        "m-1",
        "m-2",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "found nothing at"),
        ("mails.xlsx", b"", "expected .* to be one of"),
        ("mails.csv", b"Max,Muster,Depot\n", "expected .* to start with a header"),
        ("mails.json", b'{"id": 1}', "JSON array"),
        ("mails.mbox", b"Guten Tag\n", "mbox file that starts with"),
        ("mails.jsonl.gz", b"kein gzip", "cut off or no gzip"),
        ("mails.parquet", b"nichts", "Parquet file"),
    ],
)
def test_a_file_that_is_no_file_of_mails_is_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DataError, match=message):
        list(read_mails(path))


def test_a_cut_off_gzip_file_gives_its_rows_and_then_an_error(tmp_path: Path) -> None:
    rows = [{"id": str(number), "body": f"Zeile {number} {number * 7919}"} for number in range(5000)]
    path = compressed(write_jsonl(tmp_path / "mails.jsonl", rows))
    path.write_bytes(path.read_bytes()[:-2000])
    read = []

    with pytest.raises(DataError, match="cut off"):
        read.extend(read_mails(path))

    assert not read or isinstance(read[0], Email)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_how_far_reading_is_grows_from_nothing_to_all_bytes_of_a_folder(tmp_path: Path, packed: bool) -> None:
    for name in ("a", "b"):
        lines = "".join(json.dumps({"id": f"{name}{n}", "body": "Frage " * 400}) + "\n" for n in range(200))
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        if packed:
            (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
            (tmp_path / f"{name}.jsonl").unlink()
    (tmp_path / "c.csv").write_text("id;subject;body\nx;;Frage\n", encoding="utf-8")
    reading = Reading()

    seen = [reading.done for _ in read_mails(tmp_path, reading=reading)]

    assert seen == sorted(seen)
    assert len(seen) == 401
    assert seen[0] < reading.total / 2 < seen[-2]
    assert reading.done == reading.total == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_the_set_of_seen_ids_grows_and_forgets_nothing() -> None:
    seen = _SeenIds()

    assert all(seen.add(f"id-{number}") for number in range(20_000))
    assert not any(seen.add(f"id-{number}") for number in range(20_000))
    assert len(seen.slots) * 8 < 20_000 * 40
