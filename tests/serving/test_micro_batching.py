"""The queue before the engine, with an engine that can be held."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from serving.batching import MicroBatcher, split_by_length
from serving.refusals import Refused


class HeldEngine:
    """Answers each mail with its own first token, once it is let go; remembers the shapes that it saw."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Event()
        self.shapes: list[tuple[int, ...]] = []
        self.order: list[int] = []
        self.broken = False
        self.seconds = 0.0

    def forward(self, input_ids, attention_mask):
        self.entered.set()
        assert self.go.wait(10)
        time.sleep(self.seconds)
        if self.broken:
            raise RuntimeError("no forward pass today")
        self.shapes.append(input_ids.shape)
        self.order += input_ids[:, 0].tolist()
        return {
            "task": input_ids[:, :1].astype(np.float32),
            "sum": attention_mask.sum(1, keepdims=True).astype(np.float32),
        }


def mail(first: int, length: int = 4):
    return np.full(length, first, dtype=np.int32)


@pytest.fixture
def engine():
    return HeldEngine()


@pytest.fixture
def batcher(engine):
    batcher = MicroBatcher(engine, token_budget=64, queue_limit=20, wait_limit=1.0)
    batcher.start()
    yield batcher
    engine.go.set()
    batcher.stop()


async def occupy(batcher, engine):
    """Let the engine take a first mail, so that what follows queues up."""
    first = asyncio.ensure_future(batcher.submit([mail(1)], 10))
    await asyncio.to_thread(engine.entered.wait, 10)
    return first


def test_requests_share_a_forward_pass_and_each_gets_its_own_rows(batcher, engine):
    async def run():
        first = await occupy(batcher, engine)
        others = [asyncio.ensure_future(batcher.submit([mail(n), mail(n + 1)], 10)) for n in (10, 20, 30)]
        await asyncio.sleep(0.05)
        engine.go.set()
        return await asyncio.gather(first, *others)

    answers = asyncio.run(run())

    assert [answer["task"][:, 0].tolist() for answer in answers] == [[1], [10, 11], [20, 21], [30, 31]]
    assert engine.shapes == [(1, 4), (6, 4)]


def test_lengths_are_kept_apart_and_padding_is_masked(batcher, engine):
    async def run():
        first = await occupy(batcher, engine)
        mixed = asyncio.ensure_future(batcher.submit([mail(5, 60), mail(6, 2), mail(7, 58), mail(8, 3)], 10))
        await asyncio.sleep(0.05)
        engine.go.set()
        return (await asyncio.gather(first, mixed))[1]

    answer = asyncio.run(run())

    assert answer["task"][:, 0].tolist() == [5, 6, 7, 8]
    assert answer["sum"][:, 0].tolist() == [60, 2, 58, 3]


def test_a_large_request_does_not_keep_a_small_one_waiting(batcher, engine):
    async def run():
        first = await occupy(batcher, engine)
        large = asyncio.ensure_future(batcher.submit([mail(100 + n, 16) for n in range(18)], 10))
        await asyncio.sleep(0.05)
        small = asyncio.ensure_future(batcher.submit([mail(7, 16)], 10))
        await asyncio.sleep(0.05)
        engine.go.set()
        await asyncio.gather(first, large, small)

    asyncio.run(run())

    assert engine.order.index(7) <= 4


def test_a_full_queue_refuses_with_503_and_retry_after(batcher, engine):
    async def run():
        first = await occupy(batcher, engine)
        waiting = asyncio.ensure_future(batcher.submit([mail(2)] * 20, 10))
        await asyncio.sleep(0.05)
        with pytest.raises(Refused) as refused:
            await batcher.submit([mail(3)], 10)
        engine.go.set()
        await asyncio.gather(first, waiting)
        return refused.value

    refused = asyncio.run(run())

    assert (refused.status, refused.code) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1


def test_what_would_wait_too_long_is_refused_and_said_when_to_come_again(batcher, engine):
    async def run():
        engine.seconds = 0.2
        engine.go.set()
        for _ in range(3):  # so that the speed is known: 5 mails a second
            await batcher.submit([mail(1)], 10)
        engine.go.clear()
        engine.entered.clear()
        first = await occupy(batcher, engine)
        waiting = asyncio.ensure_future(batcher.submit([mail(2)] * 8, 10))
        await asyncio.sleep(0.05)
        with pytest.raises(Refused) as refused:
            await batcher.submit([mail(3)], 10)
        engine.seconds = 0.0
        engine.go.set()
        await asyncio.gather(first, waiting)
        return refused.value

    refused = asyncio.run(run())

    assert (refused.status, refused.code) == (503, "overloaded")
    assert refused.retry_after == 2  # 8 mails at 5 a second


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(batcher, engine):
    engine.go.set()

    answer = asyncio.run(batcher.submit([mail(2)] * 25, 10))

    assert len(answer["task"]) == 25


def test_a_cancelled_request_leaves_the_queue(batcher, engine):
    async def run():
        first = await occupy(batcher, engine)
        gone = asyncio.ensure_future(batcher.submit([mail(66)] * 20, 10))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0.05)
        stays = asyncio.ensure_future(batcher.submit([mail(9)] * 20, 10))
        await asyncio.sleep(0.05)
        engine.go.set()
        await asyncio.gather(first, stays)

    asyncio.run(run())

    assert 66 not in engine.order
    assert engine.order.count(9) == 20


def test_a_request_that_waits_too_long_is_refused(batcher, engine):
    async def run():
        await occupy(batcher, engine)
        with pytest.raises(Refused) as refused:
            await batcher.submit([mail(2)], 0.1)
        return refused.value

    assert asyncio.run(run()).code == "timeout"


def test_an_engine_that_fails_fails_only_those_who_asked(batcher, engine):
    engine.go.set()
    engine.broken = True
    with pytest.raises(Refused) as refused:
        asyncio.run(batcher.submit([mail(2)], 10))
    engine.broken = False

    answer = asyncio.run(batcher.submit([mail(3)], 10))

    assert refused.value.code == "forward_failed"
    assert answer["task"].tolist() == [[3.0]]


def test_who_waits_when_the_server_stops_is_told(batcher, engine):
    async def run():
        await occupy(batcher, engine)
        waiting = asyncio.ensure_future(batcher.submit([mail(2)], 10))
        await asyncio.sleep(0.05)
        stopping = threading.Thread(target=batcher.stop)
        stopping.start()
        engine.go.set()
        with pytest.raises(Refused) as refused:
            await waiting
        stopping.join()
        return refused.value

    assert asyncio.run(run()).code == "stopping"


def test_splitting_keeps_every_row_and_is_cheaper_than_one_pass():
    random = np.random.default_rng(5)
    rows = [[0] * int(length) for length in random.integers(5, 200, size=60)]

    batches = split_by_length(rows, len)

    assert sorted(map(len, rows)) == sorted(len(row) for batch in batches for row in batch)
    padded = sum(len(batch[0]) * len(batch) for batch in batches)
    assert padded + 64 * len(batches) < 60 * max(map(len, rows))
    assert len(batches) < 20
