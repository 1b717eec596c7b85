"""Micro-batching: mails of many requests share forward passes, without waiting for one another.

While one pass runs, the mails that arrive queue up; the next pass takes from every waiting request in turn, so that a
large one does not keep small ones waiting, up to a budget of tokens, and puts mails of similar length together. What
the transformer sent in several parts has one turn, as it was one request.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from mailtriage.features import TokenIds, pad
from mailtriage.inference import Engine
from serving.metrics import BATCH_MAILS, BATCH_TOKENS, QUEUE_MAILS, stage
from serving.refusals import OVERLOADED, TIMEOUT, Refused, unavailable
from serving.tracing import add_span, current_context

Logits = np.ndarray[Any, np.dtype[np.float32]]
Row = TypeVar("Row")

# A forward pass of its own costs about as much as this many tokens more in another pass.
PASS_OVERHEAD_TOKENS = 64
# So many mails a round bound the time in which a new request can join.
ROUND_MAILS = 128
# So many failed passes in a row mean that the engine fails, and not the mails of a request.
FAILED_PASSES = 3


@dataclass(eq=False, slots=True)
class _Waiting:
    """One request: its mails that wait, and the logits of those that are done."""

    pending: deque[tuple[int, TokenIds]]
    answer: asyncio.Future[dict[str, Logits]]
    loop: asyncio.AbstractEventLoop
    deadline: float
    arrived: float = field(default_factory=time.perf_counter)
    trace: Any = field(default_factory=current_context)
    arrived_ns: int = field(default_factory=time.time_ns)
    begun_ns: int = 0  # its first forward pass
    passes: int = 0
    rows: dict[int, dict[str, Logits]] = field(default_factory=dict)
    size: int = 0
    given_up: bool = False


_Row = tuple[_Waiting, int, TokenIds]


class MicroBatcher:
    """A bounded queue before an engine, and the thread that runs it.

    Args:
        engine: runs the forward passes; only the batcher's own thread calls it.
        token_budget: tokens of one round of forward passes.
        queue_limit: mails that may wait; a request above it is refused with 503 at once.
        wait_limit: seconds that those before a request may take; as above.
    """

    def __init__(
        self, engine: Engine, *, token_budget: int = 4096, queue_limit: int = 512, wait_limit: float = 5.0
    ) -> None:
        self._engine = engine
        self._token_budget = token_budget
        self._queue_limit = queue_limit
        self._wait_limit = wait_limit
        self._turns: OrderedDict[Hashable, deque[_Waiting]] = OrderedDict()
        self._mails = 0
        self._failed_passes = 0
        self._mails_per_second: float | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="forward", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the round that runs, and refuse what waits."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout=30)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def failing(self) -> bool:
        """Whether the last `FAILED_PASSES` all failed."""
        return self._failed_passes >= FAILED_PASSES

    async def submit(self, mails: Sequence[TokenIds], timeout: float, turn: Hashable = None) -> dict[str, Logits]:
        """Logits of these mails, task -> (mails, labels). A caller that is cancelled leaves the queue.

        Args:
            mails: their token ids.
            timeout: seconds.
            turn: what shares its turns with others of the same name; by default has turns of its own.

        Raises:
            Refused: 503, the queue is full, or the answer would come later than `timeout` seconds.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(
            deque(enumerate(mails)), loop.create_future(), loop, time.perf_counter() + timeout, size=len(mails)
        )
        self._enter(waiting, turn or waiting)
        try:
            async with asyncio.timeout(timeout):
                return await waiting.answer
        except TimeoutError:
            raise unavailable(TIMEOUT, f"no answer within {timeout:.1f} s", self._retry_after()) from None
        finally:
            self._leave(waiting)

    def _enter(self, waiting: _Waiting, turn: Hashable) -> None:
        with self._changed:
            if self._stopping:
                raise unavailable("stopping", "this server is about to stop")
            if self._mails and (self._mails + waiting.size > self._queue_limit or self._wait() > self._wait_limit):
                raise unavailable(OVERLOADED, "too many mails are waiting", self._retry_after())
            self._mails += waiting.size
            self._turns.setdefault(turn, deque()).append(waiting)
            QUEUE_MAILS.set(self._mails)
            self._changed.notify()

    def _leave(self, waiting: _Waiting) -> None:
        with self._changed:
            waiting.given_up = True
            self._mails -= len(waiting.pending)
            waiting.pending.clear()
            QUEUE_MAILS.set(self._mails)

    def _wait(self) -> float:
        """Seconds until what waits is done; 0 before the first round."""
        return self._mails / self._mails_per_second if self._mails_per_second else 0.0

    def _retry_after(self) -> int:
        return max(1, min(30, math.ceil(self._wait())))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._mails)
                if self._stopping:
                    break
                rows = self._take()
            started = time.perf_counter()
            for batch in split_by_length(rows, key=lambda row: len(row[2])):
                self._forward([row for row in batch if not row[0].given_up])
            seconds = time.perf_counter() - started
            newest = len(rows) / max(seconds, 1e-6)
            before = newest if self._mails_per_second is None else self._mails_per_second
            self._mails_per_second = before + 0.1 * (newest - before)
        for waiting in chain.from_iterable(self._turns.values()):
            _settle(waiting, unavailable("stopping", "this server is about to stop"))

    def _take(self) -> list[_Row]:
        """One mail of each who waits in turn, up to the token budget."""
        rows: list[_Row] = []
        tokens = 0
        while self._turns and tokens < self._token_budget and len(rows) < ROUND_MAILS:
            turn, requests = self._turns.popitem(last=False)
            while requests and requests[0].given_up:
                requests.popleft()
            if not requests:
                continue
            waiting = requests[0]
            position, ids = waiting.pending.popleft()
            stage("queue").observe(time.perf_counter() - waiting.arrived)
            rows.append((waiting, position, ids))
            tokens += len(ids)
            self._mails -= 1
            if not waiting.pending:
                requests.popleft()
            if requests:
                self._turns[turn] = requests
        QUEUE_MAILS.set(self._mails)
        return rows

    def _forward(self, rows: Sequence[_Row]) -> None:
        if not rows:
            return
        input_ids, attention_mask = pad([ids for _, _, ids in rows])
        BATCH_MAILS.observe(len(rows))
        BATCH_TOKENS.observe(input_ids.size)
        requests = list({id(row[0]): row[0] for row in rows}.values())
        for waiting in requests:
            waiting.begun_ns = waiting.begun_ns or time.time_ns()
            waiting.passes += 1
        try:
            with stage("forward").time():
                logits = self._engine.forward(input_ids, attention_mask)
        except Exception:  # the engine is foreign code: one bad batch must not end the thread
            self._failed_passes += 1
            logging.getLogger("serving").exception("a forward pass failed")
            for waiting in requests:
                _settle(waiting, unavailable("forward_failed", "the model could not read these mails"))
            return
        self._failed_passes = 0
        for row, (waiting, position, _) in enumerate(rows):
            waiting.rows[position] = {task: values[row] for task, values in logits.items()}
            if len(waiting.rows) == waiting.size:
                _trace(waiting)
                _settle(waiting, _stack(waiting.rows))


def split_by_length(rows: Sequence[Row], key: Callable[[Row], int]) -> list[list[Row]]:
    """Cut rows, longest first, into the forward passes that cost least: padded tokens plus an overhead a pass.

    The cheapest way to cut the first n rows extends a cheapest way to cut fewer (dynamic programming).
    """
    ordered = sorted(rows, key=key, reverse=True)
    lengths = np.asarray([key(row) for row in ordered])
    cost = np.zeros(len(ordered) + 1)
    begins = np.zeros(len(ordered) + 1, dtype=np.int64)
    for end in range(1, len(ordered) + 1):
        costs = cost[:end] + PASS_OVERHEAD_TOKENS + (end - np.arange(end)) * lengths[:end]
        begins[end] = costs.argmin()
        cost[end] = costs[begins[end]]
    batches: list[list[Row]] = []
    end = len(ordered)
    while end:
        batches.append(ordered[begins[end] : end])
        end = int(begins[end])
    return batches[::-1]


def _stack(rows: dict[int, dict[str, Logits]]) -> dict[str, Logits]:
    return {task: np.stack([rows[position][task] for position in range(len(rows))]) for task in rows[0]}


def _trace(waiting: _Waiting) -> None:
    """The request's spans: until its first forward pass, and from there to the end of its last."""
    add_span("queue", waiting.trace, waiting.arrived_ns, waiting.begun_ns, mails=waiting.size)
    add_span("forward", waiting.trace, waiting.begun_ns, time.time_ns(), mails=waiting.size, passes=waiting.passes)


def _settle(waiting: _Waiting, outcome: dict[str, Logits] | Refused) -> None:
    """Hand over an answer or a refusal, on the loop of the one who waits."""

    def settle() -> None:
        if waiting.answer.done():
            return
        if isinstance(outcome, Refused):
            waiting.answer.set_exception(outcome)
        else:
            waiting.answer.set_result(outcome)

    if not waiting.loop.is_closed():
        waiting.loop.call_soon_threadsafe(settle)
