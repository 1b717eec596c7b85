"""Cleans files of mails: streamed, in order, on all cores, in the same memory for a thousand mails as for more."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from mailtriage.cleaning import Cleaned, clean
from mailtriage.errors import DataError
from mailtriage.mail import Email
from mailtriage.readers import Reading, Rejected, read_mails

BATCH = 256  # mails that go to a process at a time
RESTARTS = 3  # of the processes, while no part gets done
WAITING = 3  # batches for each process that may wait, so that none is idle and memory stays flat


@dataclass(frozen=True, slots=True)
class Cleaning:
    """How many mails of a file were cleaned, and how many of its rows were rejected."""

    mails: int
    rejected: int


def clean_file(
    input: str | Path,
    output: str | Path,
    quarantine: str | Path | None = None,
    processes: int | None = None,
    progress: Callable[[int, float], None] | None = None,
    *,
    greeting: Literal["keep", "cut"] = "keep",
    redact: bool = False,
) -> Cleaning:
    """Clean a file or folder of mails into JSON Lines, in the order of the input.

    A row is `{"id", "subject", "text", "removed": [{"kind", "rule", "start", "end"}]}`, with `replacement` in a span
    that has one, and `notes` where reading left something alone, such as a winmail.dat. The files appear when they are
    complete.

    Args:
        input: what `read_mails` reads.
        output: the file of cleaned mails.
        quarantine: the file of rejected rows; without it, they are only counted.
        processes: how many to use; all cores by default, and 1 cleans in this process.
        progress: called now and then with the number of rows done so far, rejected ones included, and the share of
            the input's bytes that these are, from 0 to 1.
        greeting: as in `clean`.
        redact: as in `clean`.

    Raises:
        DataError: as `read_mails` does, or processes died over and over again.
    """
    work = partial(_clean_batch, greeting=greeting, redact=redact)
    mails = rejected = 0
    reading = Reading()
    ends: deque[int] = deque()  # bytes read at the end of each batch that is not done
    with ExitStack() as files:
        cleaned = files.enter_context(_replaced(Path(output)))
        refused = files.enter_context(_replaced(Path(quarantine))) if quarantine is not None else None
        batches = _batches(read_mails(input, reading=reading), lambda: ends.append(reading.done))
        for batch in in_order(work, batches, processes or os.cpu_count() or 1):
            for row in batch:
                if isinstance(row, str):
                    cleaned.write(row)
                    mails += 1
                else:
                    rejected += 1
                    if refused is not None:
                        refused.write(_line(row.to_record()))
            if progress is not None:
                progress(mails + rejected, ends[0] / max(1, reading.total))
            ends.popleft()
    return Cleaning(mails, rejected)


def cleaned_record(mail: Email, cleaned: Cleaned) -> dict[str, Any]:
    """The JSON object that stands for a cleaned mail."""
    removed = [
        {"kind": span.kind, "rule": span.rule, "start": span.start, "end": span.end}
        | ({"replacement": span.replacement} if span.replacement else {})
        for span in cleaned.removed
    ]
    record = {"id": mail.id, "subject": cleaned.subject, "text": cleaned.text, "removed": removed}
    return record | ({"notes": list(mail.notes)} if mail.notes else {})


_Rows = list[Email | Rejected]
_Done = list[str | Rejected]


def _clean_batch(rows: _Rows, greeting: Literal["keep", "cut"], redact: bool) -> _Done:
    """Runs in a worker, which also writes the JSON: the parent has only to read and to write files."""
    return [row if isinstance(row, Rejected) else _clean_line(row, greeting, redact) for row in rows]


def _clean_line(mail: Email, greeting: Literal["keep", "cut"], redact: bool) -> str:
    return _line(cleaned_record(mail, clean(mail.body, mail.subject, greeting=greeting, redact=redact)))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _batches(rows: Iterable[Email | Rejected], taken: Callable[[], None]) -> Iterator[_Rows]:
    """Parts for the processes; `taken` is called as each is complete."""
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH)):
        taken()
        yield batch


Part = TypeVar("Part")
Result = TypeVar("Result")


def in_order(work: Callable[[Part], Result], parts: Iterable[Part], processes: int) -> Iterator[Result]:
    """Apply `work` to every part, in processes; a single part is not worth their start.

    What a process was at when it died (of too little memory, say) is done again by others; nothing is left out.

    Raises:
        DataError: processes died `RESTARTS` times at the same part.
    """
    iterator = iter(parts)
    first = list(islice(iterator, 2))
    iterator = chain(first, iterator)
    if processes == 1 or len(first) < 2:
        yield from map(work, iterator)
        return
    waiting: deque[tuple[Part, Future[Result]]] = deque()
    pool, done, deaths = _pool(processes), 0, 0
    try:
        while True:
            while len(waiting) <= WAITING * processes and (more := list(islice(iterator, 1))):
                waiting.append((more[0], _submitted(pool, work, more[0])))
            if not waiting:
                return
            try:
                result = waiting[0][1].result()
            except BrokenProcessPool:
                deaths += 1
                if deaths > RESTARTS:
                    raise DataError(
                        f"processes died {deaths} times while they cleaned part {done + 1} or one after it: "
                        "is there too little memory?"
                    ) from None
                pool.shutdown(wait=False)
                pool = _pool(processes)
                waiting = deque((part, pool.submit(work, part)) for part, _ in waiting)
                continue
            waiting.popleft()
            done, deaths = done + 1, 0
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(processes: int) -> ProcessPoolExecutor:
    # `spawn`: a fork of a process with threads, such as a server or a notebook, may hang
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))


def _submitted(pool: ProcessPoolExecutor, work: Callable[[Part], Result], part: Part) -> Future[Result]:
    try:
        return pool.submit(work, part)
    except BrokenProcessPool as error:
        broken: Future[Result] = Future()
        broken.set_exception(error)
        return broken


@contextmanager
def _replaced(path: Path) -> Iterator[IO[str]]:
    """A file that takes its place only when it is complete."""
    partial_path = path.with_name(path.name + ".partial")
    try:
        with partial_path.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)
