"""Steady requests from several clients, counted by what became of each."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType

import httpx

PAUSE_SECONDS = 0.3  # two clients: about five requests a second
NOT_ACCEPTED, LOST = "not accepted", "lost"


class Traffic:
    """Sends one mail after the other while the `with` block runs.

    `outcomes` counts statuses, connections that were not accepted, which a client can try again, and requests that were
    accepted and lost.
    """

    def __init__(self, url: str, headers: dict[str, str], clients: int = 2) -> None:
        self.outcomes: Counter[str] = Counter()
        self._url, self._headers = url, headers
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        print(f"requests: {self.outcomes.total()} sent; {dict(self.outcomes)}")  # shown by pytest -rP

    def _send(self) -> None:
        mail = {"id": "m-1", "subject": "Depot", "body": "Bitte übertragen Sie mein Depot."}
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(self._url, json={"instances": [mail]}, headers=self._headers)
                    self.outcomes[_outcome(answer)] += 1
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    self.outcomes[NOT_ACCEPTED] += 1
                except httpx.TransportError:
                    self.outcomes[LOST] += 1
                time.sleep(PAUSE_SECONDS)


def _outcome(answer: httpx.Response) -> str:
    """The status, and of a refusal its code: who reads a failed test wants to know which."""
    if answer.status_code == 200:
        return "200"
    try:
        return f"{answer.status_code} {answer.json()['error']['code']}"
    except (ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.text[:80]}"
