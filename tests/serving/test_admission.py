"""Admission: what would wait too long is refused at once, and said when to come again."""

import pytest

from serving.admission import Admission
from serving.refusals import Refused


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
