"""Refuses at the door what would wait too long, so that what is let in is answered soon.

By Little's law, a request that finds N mails in work waits about N divided by the mails that are finished a second,
whatever limits the speed: cleaning, the forward passes, or another load on the machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.metrics import IN_FLIGHT_MAILS
from serving.refusals import OVERLOADED, TIMEOUT, Refused, unavailable

WINDOW = 4.0  # seconds over which the speed is averaged: several parts of a large request, few of a sudden load
SLOWEST = 0.01  # mails a second; less is no speed that anyone could wait for
LONGEST_RETRY = 30
# When the predictor refuses mails that were let in, so much of what is in work may be; each mail answered makes room
# for so many more. So what the predictor can take is found, whatever its limits and however many others ask it.
BACK_OFF, GROWTH = 0.9, 0.1


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
            self._rate = max(SLOWEST, self._rate - math.expm1(-self._busy / WINDOW) * (newest - self._rate))
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

    A request that finds nothing in work is always let in, whatever its size. Only mails that were answered count as
    speed: if those that the predictor refuses did, it would seem the faster the more it refuses, and ever more mails
    would be let in, cleaned, and thrown away.
    """

    def __init__(self, most_mails: int, most_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_mails = most_mails
        self._most_seconds = most_seconds
        self._room = float(most_mails)
        self._pace = Pace(clock)
        self._in_work = 0

    @contextmanager
    def admitted(self, mails: int) -> Iterator[Callable[[int], None]]:
        """Count mails as in work; call what it gives for each part that is answered.

        Raises:
            Refused: 503 with `Retry-After`.
        """
        left = mails

        def answered(part: int) -> None:
            nonlocal left
            left -= part
            self._pace.leave(part)
            self._room = min(self._most_mails, self._room + GROWTH * part)
            self._count(-part)

        self.check(mails)
        self._count(mails)
        try:
            yield answered
            answered(left)
        except Refused as refused:
            if refused.code == OVERLOADED:
                self._room = min(self._room, BACK_OFF * self._in_work)
            elif refused.code != TIMEOUT:  # such as a predictor that is away: it says so at once, better than we could
                self._pace.leave(left)
            raise
        finally:  # what failed has left, too
            self._count(-left)

    def check(self, mails: int = 1) -> None:
        """Raise what `admitted` would raise now."""
        if not self._in_work:
            return
        wait = self._pace.seconds_for(self._in_work)
        if wait > self._most_seconds:
            raise _overloaded(f"an answer would take about {wait:.0f} s", wait - self._most_seconds)
        if self._in_work + mails > self._room:
            raise _overloaded("too many mails are in work", wait)

    def _count(self, mails: int) -> None:
        self._in_work += mails
        self._pace.work(self._in_work)
        IN_FLIGHT_MAILS.set(self._in_work)


class Door:
    """ASGI middleware that refuses a request before its body is parsed.

    Under overload most requests are refused: reading what they hold would take the time of those that are let in.

    Args:
        app: what is behind the door.
        check: raises `Refused` while nobody is let in.
    """

    def __init__(self, app: ASGIApp, check: Callable[[], None]) -> None:
        self._app = app
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            self._check()
        await self._app(scope, receive, send)


def _overloaded(message: str, seconds: float) -> Refused:
    return unavailable(OVERLOADED, message, max(1, min(LONGEST_RETRY, math.ceil(seconds))))
