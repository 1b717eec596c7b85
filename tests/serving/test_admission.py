"""Admission: what would wait too long is refused at once, and said when to come again."""

import asyncio
from collections import deque

import httpx
import pytest

from serving.admission import Admission, Door
from serving.guard import Guard
from serving.idempotency import Idempotency
from serving.refusals import OVERLOADED, TIMEOUT, Refused, unavailable


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def work_off(admission: Admission, clock: Clock, mails: int, rate: float) -> None:
    """One request of so many mails, of which `rate` a second are done, one after the other."""
    with admission.admitted(mails) as done:
        for _ in range(mails):
            clock.now += 1 / rate
            done(1)


def refusal(admission: Admission, mails: int = 1) -> Refused:
    with pytest.raises(Refused) as refused, admission.admitted(mails):
        pass
    assert (refused.value.status, refused.value.code) == (503, "overloaded")
    return refused.value


def test_a_request_that_would_wait_longer_than_allowed_is_refused(clock: Clock) -> None:
    admission = Admission(most_mails=10_000, most_seconds=5, clock=clock)
    work_off(admission, clock, 200, rate=20)

    with admission.admitted(90), admission.admitted(9):
        clock.now += 0.01
    with admission.admitted(160):  # 8 seconds of work
        refused = refusal(admission)

    assert "about 8 s" in refused.message
    assert refused.retry_after == 3  # by then 5 seconds of work are left


def test_one_that_finds_nothing_in_work_is_let_in_whatever_its_size(clock: Clock) -> None:
    admission = Admission(most_mails=10, most_seconds=5, clock=clock)
    work_off(admission, clock, 100, rate=1)

    with admission.admitted(500):
        refusal(admission)


def test_mails_in_work_are_bounded_while_no_speed_is_known(clock: Clock) -> None:
    admission = Admission(most_mails=64, most_seconds=5, clock=clock)

    with admission.admitted(60), admission.admitted(4):
        assert refusal(admission).retry_after == 1


def test_a_stuck_predictor_closes_the_door_and_a_quick_one_opens_it_again(clock: Clock) -> None:
    admission = Admission(most_mails=10_000, most_seconds=5, clock=clock)
    work_off(admission, clock, 200, rate=20)

    with admission.admitted(20):
        clock.now += 20  # nothing is done meanwhile
        refusal(admission)
    work_off(admission, clock, 100, rate=20)

    with admission.admitted(20), admission.admitted(1):
        pass


def test_pauses_without_work_do_not_count(clock: Clock) -> None:
    admission = Admission(most_mails=10_000, most_seconds=5, clock=clock)
    for _ in range(100):
        work_off(admission, clock, 1, rate=20)
        clock.now += 60

    with admission.admitted(60), admission.admitted(1):  # 3 seconds of work
        pass


def test_what_failed_has_left(clock: Clock) -> None:
    admission = Admission(most_mails=10, most_seconds=5, clock=clock)

    def fail() -> None:
        with admission.admitted(10) as done:
            done(3)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()

    with admission.admitted(4), admission.admitted(6):
        refusal(admission)


def fail(admission: Admission, clock: Clock, mails: int, code: str) -> None:
    """A request that is let in, and that the predictor refuses a moment later."""

    def refuse() -> None:
        with admission.admitted(mails):
            clock.now += 0.1
            raise unavailable(code, "the predictor's answer")

    with pytest.raises(Refused) as refused:
        refuse()
    assert refused.value.message == "the predictor's answer"


@pytest.mark.parametrize("code", [OVERLOADED, TIMEOUT])
def test_what_the_predictor_refuses_is_no_speed(clock: Clock, code: str) -> None:
    admission = Admission(most_mails=10_000, most_seconds=5, clock=clock)
    work_off(admission, clock, 200, rate=20)

    for _ in range(40):
        fail(admission, clock, 100, code)

    with admission.admitted(160):  # 8 seconds of work, by the speed before
        assert "an answer would take" in refusal(admission).message


def test_a_predictor_that_is_away_is_named_to_everyone(clock: Clock) -> None:
    admission = Admission(most_mails=10_000, most_seconds=5, clock=clock)
    work_off(admission, clock, 200, rate=20)

    with admission.admitted(1):
        for _ in range(600):
            fail(admission, clock, 4, "predictor_unavailable")


def test_when_the_predictor_refuses_fewer_are_let_in_and_answers_make_room_again(clock: Clock) -> None:
    admission = Admission(most_mails=1000, most_seconds=5, clock=clock)

    with admission.admitted(100):
        fail(admission, clock, 100, OVERLOADED)  # of 200 in work
        with admission.admitted(80):  # up to 180
            assert "too many mails are in work" in refusal(admission).message
        with admission.admitted(88):  # 80 answers made room for 8 mails
            refusal(admission)


@pytest.mark.parametrize("queue", [40, 160])  # less than five seconds of work, and more
def test_twice_too_many_mails_are_answered_at_full_speed_and_hardly_any_is_thrown_away(
    clock: Clock, queue: int
) -> None:
    admission = Admission(most_mails=1024, most_seconds=5, clock=clock)
    waiting: deque = deque()
    answered = thrown_away = 0
    waits = []
    for arrival in range(8000):  # 80 mails a second arrive, 20 are answered: for 100 seconds
        clock.now += 1 / 80
        if arrival % 4 == 0 and waiting:
            admitted, since = waiting.popleft()
            admitted.__exit__(None, None, None)
            answered += 1
            waits.append(clock.now - since)
        admitted = admission.admitted(1)
        try:
            admitted.__enter__()
        except Refused:
            continue
        if len(waiting) < queue:
            waiting.append((admitted, clock.now))
            continue
        thrown_away += 1
        refused = unavailable(OVERLOADED, "the predictor's queue is full")
        assert not admitted.__exit__(Refused, refused, None)

    assert answered > 0.95 * 20 * 100
    assert thrown_away < 0.1 * answered
    assert max(waits) < 1.5 * 5


class Behind:
    """An application that counts its requests and reads none of them."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, scope, receive, send):
        self.requests += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


def test_a_closed_door_refuses_what_has_no_kept_answer_and_nothing_behind_it_is_asked() -> None:
    behind, door = Behind(), {"closed": False}

    def check() -> None:
        if door["closed"]:
            raise unavailable(OVERLOADED, "too much to do", 7)

    async def run() -> list[httpx.Response]:
        app = Guard(
            Idempotency(Door(behind, check)), model="mailtriage", max_body=10**6, body_timeout=5, answer_headers={}
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            asked = []
            for door["closed"], key in ((False, "first"), (True, "first"), (True, "second"), (False, "second")):
                headers = {"idempotency-key": key, "x-request-id": f"request-{len(asked)}"}
                asked.append(await client.post("/v1/models/mailtriage:predict", json={}, headers=headers))
            door["closed"] = True
            return [*asked, await client.get("/v2/health/ready")]

    first, again, refused, later, health = asyncio.run(run())

    assert [answer.status_code for answer in (first, again, refused, later, health)] == [200, 200, 503, 200, 200]
    assert again.headers["idempotency-replayed"] == "true"
    assert refused.json() == {"error": {"code": "overloaded", "message": "too much to do"}}
    assert (refused.headers["retry-after"], refused.headers["x-request-id"]) == ("7", "request-2")
    assert behind.requests == 3  # the first one, the second key's later one, and the one for health
