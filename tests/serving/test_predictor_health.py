"""A predictor is ready only while its engine can run a forward pass, and ready again as soon as it can."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mailtriage.bundle import Bundle
from serving.batching import FAILED_PASSES, MicroBatcher
from serving.predictor import Predictor
from serving.refusals import Refused


class Engine:
    """Fails while it is told to, waits while it is held, and remembers the first token of each mail."""

    def __init__(self) -> None:
        self.broken = False
        self.go = threading.Event()
        self.go.set()
        self.passes = 0
        self.order: list[int] = []

    def forward(self, input_ids, attention_mask):
        self.passes += 1
        assert self.go.wait(20)
        if self.broken:
            raise RuntimeError("no forward pass today")
        self.order += input_ids[:, 0].tolist()
        return {"task": input_ids[:, :1].astype(np.float32)}


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def predictor(engine, bundle_path):
    batcher = MicroBatcher(engine, token_budget=64, queue_limit=1000, wait_limit=1000.0)
    predictor = Predictor("mailtriage", Bundle.open(bundle_path), batcher, "test", 10.0)
    predictor.start()
    yield predictor
    engine.go.set()
    batcher.stop()


async def ask(predictor, first=7, mails=1, **headers):
    ids = [np.full(16, first, dtype=np.int32)] * mails
    _, logits = await predictor.predict((SimpleNamespace(parameters={}), ids), headers)
    return logits


async def fail(predictor, times):
    for _ in range(times):
        with pytest.raises(Refused):
            await ask(predictor)


def test_an_engine_that_always_fails_makes_it_unready_until_it_works_again(predictor, engine):
    async def run():
        before = await predictor.healthy()
        engine.broken = True
        await fail(predictor, FAILED_PASSES)
        while_broken = [await predictor.healthy(), await predictor.healthy()]
        engine.broken = False
        return before, while_broken, await predictor.healthy(), await predictor.healthy()

    assert asyncio.run(run()) == (True, [False, False], True, True)


def test_a_mail_that_is_answered_starts_the_count_anew(predictor, engine):
    async def run():
        for _ in range(3):
            engine.broken = True
            await fail(predictor, FAILED_PASSES - 1)
            engine.broken = False
            await ask(predictor)
        passes = engine.passes
        return await predictor.healthy(), engine.passes - passes

    assert asyncio.run(run()) == (True, 0)


def test_who_asks_waits_for_no_slow_engine_and_only_one_pass_is_tried(predictor, engine):
    async def run():
        engine.broken = True
        await fail(predictor, FAILED_PASSES)
        engine.go.clear()
        passes, began = engine.passes, time.monotonic()
        answers = await asyncio.gather(*(predictor.healthy() for _ in range(5)))
        answers.append(await predictor.healthy())
        took = time.monotonic() - began
        engine.broken = False
        engine.go.set()
        after = await predictor.healthy()
        await asyncio.sleep(0.2)  # a second trial would have waited behind the first
        return answers, took, engine.passes - passes, after

    answers, took, tried, after = asyncio.run(run())

    assert answers == [False] * 6
    assert took < 4
    assert tried == 1
    assert after


def test_a_client_with_a_large_request_gets_no_more_turns_than_another(predictor, engine):
    """The transformer sends 256 mails in 16 parts; another client's four come one after the other with them."""

    async def run():
        engine.go.clear()
        first = asyncio.create_task(ask(predictor, 1, **{"x-request-id": "first"}))
        while not engine.passes:
            await asyncio.sleep(0.01)
        large = [asyncio.create_task(ask(predictor, 2, 16, **{"x-request-id": "large"})) for _ in range(16)]
        await asyncio.sleep(0.05)
        small = asyncio.create_task(ask(predictor, 3, 4, **{"x-request-id": "small"}))
        await asyncio.sleep(0.05)
        engine.go.set()
        return await asyncio.gather(first, small, *large)

    _, small, *large = asyncio.run(run())

    assert small["task"].tolist() == [[3.0]] * 4
    assert [part["task"].tolist() for part in large] == [[[2.0]] * 16] * 16
    assert max(position for position, mail in enumerate(engine.order) if mail == 3) <= 12


def test_requests_without_an_id_have_turns_of_their_own(predictor, engine):
    async def run():
        engine.go.clear()
        first = asyncio.create_task(ask(predictor, 1))
        while not engine.passes:
            await asyncio.sleep(0.01)
        waiting = [asyncio.create_task(ask(predictor, number, 8)) for number in (2, 3, 4)]
        await asyncio.sleep(0.05)
        engine.go.set()
        await asyncio.gather(first, *waiting)

    asyncio.run(run())

    assert set(engine.order[1:5]) == {2, 3, 4}
