"""Refuses at the door what would wait too long, so that what is let in is answered soon.

By Little's law, a request that finds N mails in work waits about N divided by the mails that are finished a second,
whatever limits the speed: cleaning, the forward passes, or another load on the machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.metrics import IN_FLIGHT_MAILS
from serving.refusals import Refused, unavailable

WINDOW = 4.0  # seconds over which the speed is averaged: several parts of a large request, few of a sudden load
LONGEST_RETRY = 30


class Pace:
    """How many mails a second leave while there is work: an exponential mean over about `WINDOW` busy seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rate: float | None = None
        self._left = 0
        self._busy = 0.0  # seconds since the last update in which there was work
        self._since: float | None = None  # when the current stretch of work began

    def work(self, mails: int) -> None:
        """So many mails are in work from now on."""
        now = self._clock()
        if self._since is not None:
            self._busy += now - self._since
        self._since = now if mails else None
        if self._busy >= WINDOW / 8:
            self._update()

    def leave(self, mails: int) -> None:
        self._left += mails

    def seconds_for(self, mails: int) -> float:
        """Seconds until so many mails have left, all that are in work; 0 as long as nothing is known."""
        self.work(mails)
        return mails / self._rate if self._rate else 0.0

    def _update(self) -> None:
        newest = self._left / self._busy
        if self._rate is not None:
            self._rate += -math.expm1(-self._busy / WINDOW) * (newest - self._rate)
        elif self._left:
            self._rate = newest
        else:
            return
        self._left, self._busy = 0, 0.0


class Admission:
    """Counts mails in work and lets more in while they are few enough and the wait is short enough.

    Args:
        most_mails: in work at once; bounds memory.
        most_seconds: that a request may be expected to wait.

    A request that finds nothing in work is always let in, whatever its size.
    """

    def __init__(self, most_mails: int, most_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_mails = most_mails
        self._most_seconds = most_seconds
        self._pace = Pace(clock)
        self._in_work = 0

    @contextmanager
    def admitted(self, mails: int) -> Iterator[Callable[[int], None]]:
        """Count mails as in work; call what it gives for each part that is done.

        Raises:
            Refused: 503 with `Retry-After`.
        """
        left = mails

        def done(part: int) -> None:
            nonlocal left
            left -= part
            self._pace.leave(part)
            self._count(-part)

        self._check(mails)
        self._count(mails)
        try:
            yield done
        finally:  # also what failed has left
            done(left)

    def _check(self, mails: int) -> None:
        if not self._in_work:
            return
        wait = self._pace.seconds_for(self._in_work)
        if wait > self._most_seconds:
            raise _overloaded(f"an answer would take about {wait:.0f} s", wait - self._most_seconds)
        if self._in_work + mails > self._most_mails:
            raise _overloaded("too many mails are in work", wait)

    def _count(self, mails: int) -> None:
        self._in_work += mails
        self._pace.work(self._in_work)
        IN_FLIGHT_MAILS.set(self._in_work)


def _overloaded(message: str, seconds: float) -> Refused:
    return unavailable("overloaded", message, max(1, min(LONGEST_RETRY, math.ceil(seconds))))
