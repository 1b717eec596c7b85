"""Raw mails from wherever they are into the JSONL file that a pipeline starts from, and from there to examples."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from mailtriage.errors import DataError, InvalidMail, TaxonomyError
from mailtriage.examples import Example
from mailtriage.mail import Email
from mailtriage.readers import Rejected, read_mails
from mailtriage.taxonomy import Taxonomy

Progress = Callable[[str], None]
SAY_EVERY = 5.0  # seconds


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


def clean_mails(mails: Path, tasks: Sequence[str], progress: Progress = lambda message: None) -> Iterator[Example]:
    """Clean the mails that `ingest_mails` wrote.

    Raises:
        DataError: a row is not what was written.
    """
    said = time.monotonic()
    with mails.open(encoding="utf-8") as stream:
        for row, line in enumerate(stream, start=1):
            try:
                mail = Email.from_record(json.loads(line), tasks)
            except (ValueError, InvalidMail):
                raise DataError(f"{mails}, row {row}: expected a mail that was read before") from None
            yield Example.from_email(mail)
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                progress(f"{row:,} mails cleaned so far")


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
