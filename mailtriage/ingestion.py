"""Raw mails from wherever they are into the JSONL file that a pipeline starts from, and from there to examples."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from mailtriage.bulk_cleaning import in_order
from mailtriage.errors import DataError, InvalidMail, TaxonomyError
from mailtriage.examples import Example, example_line
from mailtriage.mail import Email
from mailtriage.ray_cleaning import in_order_on_ray
from mailtriage.readers import Rejected, read_mails
from mailtriage.taxonomy import Taxonomy

Progress = Callable[[str], None]
SAY_EVERY = 5.0  # seconds
PART = 1 << 20  # bytes of a file that a worker cleans at a time


@dataclass(frozen=True, slots=True)
class Ingested:
    """How many mails were read, and how many rows went to the quarantine."""

    rows: int
    rejected: int


def read_labelled(path: Path, taxonomy: Taxonomy) -> Iterator[Email | Rejected]:
    """The mails of a file or folder with their labels; a row with a label that the taxonomy lacks is rejected.

    Raises:
        DataError: as `readers.read_mails`.
    """
    for row, mail in enumerate(read_mails(path, taxonomy.task_ids), start=1):
        yield mail if isinstance(mail, Rejected) else _with_known_labels(mail, taxonomy, row, path.name)


def _with_known_labels(mail: Email, taxonomy: Taxonomy, row: int, source: str) -> Email | Rejected:
    for task, label in mail.labels.items():
        if label is not None:
            try:
                taxonomy.task(task).index(label)
            except TaxonomyError as error:
                return Rejected(row, str(error), "unknown_label", source)
    return mail


def ingest_mails(source: str, taxonomy: Taxonomy, mails: Path, quarantine: Path) -> Ingested:
    """Read `source` (a file, a folder, or an address such as `s3://bucket/mails`) into two JSONL files.

    Raises:
        DataError: nothing is there, or no row of it can be used.
    """
    rows = rejected = 0
    with _local(source) as path, _writer(mails) as good, _writer(quarantine) as bad:
        for mail in read_labelled(path, taxonomy):
            if isinstance(mail, Rejected):
                bad.write(json.dumps(mail.to_record(), ensure_ascii=False) + "\n")
                rejected += 1
            else:
                good.write(json.dumps(mail.to_record(), ensure_ascii=False) + "\n")
                rows += 1
    if not rows:
        raise DataError(f"expected mails in {source}, found none that can be used; {rejected} rows were rejected")
    return Ingested(rows, rejected)


def clean_mails(
    mails: Path,
    tasks: Sequence[str],
    examples: Path,
    progress: Progress = lambda message: None,
    *,
    processes: int | None = None,
    ray_address: str = "",
    part_bytes: int = PART,
) -> int:
    """Clean the mails that `ingest_mails` wrote into a file of examples, in order; returns how many.

    The file is the same wherever it is made.

    Args:
        processes: how many to use on this machine; all cores by default.
        ray_address: clean on Ray Data there instead (`ray_cleaning`); every node must see `mails`.
        part_bytes: about how much of the file a process or a Ray task cleans at a time.

    Raises:
        DataError: a row is not what was written.
    """
    work = partial(_clean_part, str(mails.resolve()), tuple(tasks), _count_lines(mails))
    size = mails.stat().st_size
    parts = [(start, min(start + part_bytes, size)) for start in range(0, size, part_bytes)]
    if ray_address:
        results = in_order_on_ray(work, parts, ray_address)
    else:
        results = in_order(work, parts, processes or os.cpu_count() or 1)
    rows, said = 0, time.monotonic()
    with _writer(examples) as stream:
        for lines, bad_row in results:
            if bad_row is not None:
                raise DataError(f"{mails}, row {rows + bad_row}: expected a mail that was read before")
            stream.writelines(lines)
            rows += len(lines)
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                progress(f"{rows:,} mails cleaned so far")
    return rows


def _clean_part(
    file: str, tasks: tuple[str, ...], of_mails: int, part: tuple[int, int]
) -> tuple[list[str], int | None]:
    """The examples of the lines that start in a part of a file, and which of them, from 1, is no mail, if one is."""
    start, end = part
    lines: list[str] = []
    with Path(file).open("rb") as stream:
        stream.seek(max(0, start - 1))
        if start:
            stream.readline()  # the end of a line that starts before; only the break where one starts here
        while stream.tell() < end and (line := stream.readline()):
            try:
                mail = Email.from_record(json.loads(line), tasks)
            except (ValueError, InvalidMail):
                return lines, len(lines) + 1
            lines.append(example_line(Example.from_email(mail, of_mails)))
    return lines, None


def _count_lines(file: Path) -> int:
    with file.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


@contextmanager
def _local(source: str) -> Iterator[Path]:
    """The path of `source`; what lies at a remote address is copied into a temporary folder first."""
    if "://" not in source:
        if not Path(source).exists():
            raise DataError(f"expected a file or folder of mails at {source}, found nothing")
        yield Path(source)
        return
    from pyarrow import fs

    address = source.partition("?")[0]  # what follows may hold keys
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / Path(address).name
        try:
            fs.copy_files(source, str(target))
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read mails from {address}: {type(error).__name__}") from error
        yield target


@contextmanager
def _writer(path: Path) -> Iterator[TextIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        yield stream
