"""Reads mails from files: JSON Lines, JSON, CSV, Parquet, `.eml`, mbox, each perhaps gzipped, or a folder of them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from mailtriage.errors import DataError, InvalidMail, nearest
from mailtriage.mail import Email
from mailtriage.mime import read_message


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that is no mail. `row` counts from 1: lines in JSON Lines, records elsewhere; 0 is the file itself.

    `code` is stable and short, for programs; `reason` is for people and never holds the mail's text.
    """

    row: int
    reason: str
    code: str
    source: str

    def to_record(self) -> dict[str, Any]:
        """The JSON object that goes to a quarantine file."""
        return {key: asdict(self)[key] for key in ("source", "row", "code", "reason")}


@dataclass(slots=True)
class Reading:
    """How far `read_mails` is, in bytes of the files as they lie on the disk."""

    done: int = 0
    total: int = 0
    _before: int = 0  # bytes of the files that are done

    def begin(self, path: Path) -> None:
        """These files are about to be read."""
        self.total = sum(file.stat().st_size for file in (mail_files(path) if path.is_dir() else [path]))

    def at(self, file: IO[bytes]) -> None:
        """So far the current file is read."""
        raw: IO[bytes] = getattr(file, "fileobj", file)  # what a gzip file reads
        if not raw.closed:  # the CSV and Parquet readers close what they have read
            self.done = self._before + raw.tell()

    def end(self, path: Path) -> None:
        """This file is done."""
        self.done = self._before = self._before + path.stat().st_size


# What a file holds before anyone checks it: row numbers, and the record or what is wrong with it.
_Rows = Iterator[tuple[int, "dict[str, Any] | Email | InvalidMail"]]


def read_mails(
    path: str | Path, tasks: Sequence[str] = (), reading: Reading | None = None
) -> Iterator[Email | Rejected]:
    """The mails of a file or folder in order, and in their places the rows that cannot be used.

    `tasks` are the keys that hold labels. A second mail with the same id is rejected. Files are streamed, but for
    `.json`, which is read whole; `reading`, if given, says how far they are.

    Raises:
        DataError: there is no such file, or it is no file of mails; in a folder, such a file is a rejected row 0.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"expected a file or folder of mails, found nothing at {path}")
    seen, reading = _SeenIds(), reading or Reading()
    reading.begin(path)
    if path.is_dir():
        yield from _read_folder(path, tasks, seen, reading)
    else:
        yield from _read_file(path, path.name, tasks, seen, reading)


def write_rejected(path: str | Path, rejected: Iterable[Rejected]) -> int:
    """Write a quarantine file, one JSON object a row with `source`, `row`, `code` and `reason`; returns how many."""
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for row in rejected:
            file.write(json.dumps(row.to_record(), ensure_ascii=False) + "\n")
            count += 1
    return count


def mail_files(folder: Path) -> list[Path]:
    """The files below a folder that `read_mails` knows by their names, in order."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")]
    return sorted(file for file in files if _suffix(file) in _READERS)


def _read_folder(folder: Path, tasks: Sequence[str], seen: _SeenIds, reading: Reading) -> Iterator[Email | Rejected]:
    for file in mail_files(folder):
        source = file.relative_to(folder).as_posix()
        try:
            yield from _read_file(file, source, tasks, seen, reading)
        except DataError as error:
            yield Rejected(0, str(error), "unreadable_file", source)


def _read_file(
    path: Path, source: str, tasks: Sequence[str], seen: _SeenIds, reading: Reading
) -> Iterator[Email | Rejected]:
    suffix = _suffix(path)
    if suffix not in _READERS:
        known = ", ".join(_READERS)
        raise DataError(f"expected {path} to be one of {known} (or one of these with .gz){nearest(suffix, _READERS)}")
    try:
        with _open(path) as file:
            for row, record in _READERS[suffix](file, path):
                reading.at(file)
                yield _checked(row, record, source, tasks, seen)
    except (OSError, EOFError) as error:
        detail = error.strerror if isinstance(error, OSError) and error.strerror else "it is cut off or no gzip file"
        raise DataError(f"cannot read {path} to its end: {detail}") from None
    finally:
        reading.end(path)


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if _is_gzip(path) else path.open("rb")


def _is_gzip(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return "." + name.rpartition(".")[2] if "." in name else ""


def _checked(
    row: int, record: dict[str, Any] | Email | InvalidMail, source: str, tasks: Sequence[str], seen: _SeenIds
) -> Email | Rejected:
    if isinstance(record, InvalidMail):
        return Rejected(row, str(record), record.code, source)
    try:
        mail = record if isinstance(record, Email) else Email.from_record(record, tasks)
        _check_characters(mail)
    except InvalidMail as error:
        return Rejected(row, str(error), error.code, source)
    if not seen.add(mail.id):
        reason = "expected an 'id' of its own, found one that an earlier row has"
        return Rejected(row, reason, "duplicate_id", source)
    return mail


def _check_characters(mail: Email) -> None:
    """A lone half of a UTF-16 pair cannot be written anywhere."""
    for text in (mail.id, mail.subject, mail.body, mail.custodian_bank or ""):
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise InvalidMail(
                    "bad_encoding", "expected text, found a character that is not valid Unicode"
                ) from None


class _SeenIds:
    """A set of ids that needs 8 to 32 bytes for each: a table of 64-bit hashes with open addressing."""

    def __init__(self) -> None:
        self.slots = array("Q", bytes(8 * 1024))
        self.count = 0

    def add(self, identifier: str) -> bool:
        """Remember an id; returns whether it is new."""
        digest = hashlib.blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if self.count * 2 >= len(self.slots):
            self._grow()
        return self._insert(int.from_bytes(digest, "little") or 1)

    def _insert(self, value: int) -> bool:
        mask = len(self.slots) - 1
        slot = value & mask
        while self.slots[slot]:
            if self.slots[slot] == value:
                return False
            slot = (slot + 1) & mask
        self.slots[slot] = value
        self.count += 1
        return True

    def _grow(self) -> None:
        old = self.slots
        self.slots, self.count = array("Q", bytes(16 * len(old))), 0
        for value in old:
            if value:
                self._insert(value)


def _read_jsonl(file: IO[bytes], path: Path) -> _Rows:
    for row, line in enumerate(file, start=1):
        content = line.removeprefix(b"\xef\xbb\xbf") if row == 1 else line
        if content.strip():
            yield row, _json_record(content)


def _json_record(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return InvalidMail("bad_encoding", "expected UTF-8, found bytes that are not")
    except (ValueError, RecursionError):
        return InvalidMail("bad_json", "expected one JSON object a line, found something else")


def _read_json(file: IO[bytes], path: Path) -> _Rows:
    try:
        rows = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise DataError(f"expected {path} to be a JSON array of objects in UTF-8, found something else") from None
    if not isinstance(rows, list):
        raise DataError(f"expected {path} to be a JSON array of objects, found something else")
    yield from enumerate(rows, start=1)


def _read_csv(file: IO[bytes], path: Path) -> _Rows:
    """Comma, semicolon or tab, as the header line tells; an empty cell is a missing value."""
    csv.field_size_limit(2**31 - 1)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    head = text.readline()
    delimiter = max(",;\t", key=head.count)
    columns = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
    if "id" not in columns or not {"subject", "body"} & set(columns):
        raise DataError(
            f"expected {path} to start with a header that names 'id', 'subject' and 'body', found another line"
        )
    yield from _csv_rows(csv.reader(text, delimiter=delimiter), columns)


def _csv_rows(reader: Iterator[list[str]], columns: Sequence[str]) -> _Rows:
    row = 0
    while True:
        row += 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield row, InvalidMail("bad_csv", "expected a row of CSV, found something else")
            continue
        if len(cells) != len(columns):
            if cells:
                reason = f"expected {len(columns)} columns as in the header, found {len(cells)}"
                yield row, InvalidMail("bad_csv", reason)
            continue
        yield row, {column: cell or None for column, cell in zip(columns, cells, strict=True)}


def _read_parquet(file: IO[bytes], path: Path) -> _Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"reading {path} needs pyarrow: install mailtriage[train]") from None
    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(file.read()) if _is_gzip(path) else file)
        if "id" not in table.schema_arrow.names:
            raise DataError(f"expected {path} to have a column 'id' beside 'subject' and 'body'")
        row = 0
        for batch in table.iter_batches(batch_size=512):
            for record in batch.to_pylist():
                row += 1
                yield row, record
    except (pyarrow.ArrowException, UnicodeDecodeError):
        raise DataError(f"expected {path} to be a Parquet file, found something else") from None


def _read_eml(file: IO[bytes], path: Path) -> _Rows:
    yield 1, _message(file.read(), path.name)


def _message(data: bytes, fallback_id: str) -> Email | InvalidMail:
    try:
        message = read_message(data, fallback_id)
        return replace(message.mail, notes=message.notes)
    except InvalidMail as error:
        return error


# From max@example.org Tue Mar 12 10:11:12 2024
_MBOX_START = re.compile(rb"From \S+.*\d\d:\d\d")
_MBOX_ESCAPED = re.compile(rb"^>(>*From )", re.MULTILINE)


def _read_mbox(file: IO[bytes], path: Path) -> _Rows:
    message: list[bytes] = []
    row, blank = 0, True
    for line in file:
        if blank and _MBOX_START.match(line):
            if row:
                yield row, _message(_MBOX_ESCAPED.sub(rb"\1", b"".join(message)), f"{path.name}:{row}")
            row, message = row + 1, []
        elif row:
            message.append(line)
        elif line.strip():
            raise DataError(f"expected {path} to be an mbox file that starts with 'From ', found another line")
        blank = not line.strip()
    if row:
        yield row, _message(_MBOX_ESCAPED.sub(rb"\1", b"".join(message)), f"{path.name}:{row}")


_READERS: dict[str, Callable[[IO[bytes], Path], _Rows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".eml": _read_eml,
    ".mbox": _read_mbox,
}
