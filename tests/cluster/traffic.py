"""Steady requests from several clients, counted by what became of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType

import httpx

PAUSE_SECONDS = 0.1


class Traffic:
    """Sends one mail after the other while the `with` block runs; `outcomes` counts statuses and lost requests."""

    def __init__(self, url: str, headers: dict[str, str], clients: int = 3) -> None:
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

    def _send(self) -> None:
        mail = {"id": "m-1", "subject": "Depot", "body": "Bitte übertragen Sie mein Depot."}
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(self._url, json={"instances": [mail]}, headers=self._headers)
                    self.outcomes[str(answer.status_code)] += 1
                except httpx.TransportError as error:
                    self.outcomes[type(error).__name__] += 1
                time.sleep(PAUSE_SECONDS)
