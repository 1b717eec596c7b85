"""Hands predictions to the store in the background: an answer never waits for a database, nor fails with it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Sequence

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from serving.metrics import PREDICTIONS_BUFFERED, PREDICTIONS_DROPPED, PREDICTIONS_RECORDED
from serving.prediction_store import PredictionRecord, PredictionStore

logger = logging.getLogger("serving.predictions")

BUFFERED_RECORDS = 10_000
BATCH_RECORDS = 500
GATHER_SECONDS = 0.25  # so that a busy server commits a few times a second and not once a mail
FIRST_PAUSE, LAST_PAUSE = 0.5, 30.0
CLOSE_SECONDS = 8.0


class PredictionRecorder:
    """A bounded buffer before a store, and the thread that empties it.

    What finds the buffer full is dropped and counted; so is what the store refuses for its content, and what is left
    when the process must go while the store is away.
    """

    def __init__(self, store: PredictionStore, *, capacity: int = BUFFERED_RECORDS) -> None:
        self._store = store
        self._capacity = capacity
        self._buffer: deque[PredictionRecord] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._prepared = False
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="predictions", daemon=True)
        self._thread.start()

    def add(self, records: Iterable[PredictionRecord]) -> None:
        """Take records without waiting; called on the event loop."""
        with self._changed:
            for record in records:
                if len(self._buffer) < self._capacity and not self._stopping:
                    self._buffer.append(record)
                else:
                    PREDICTIONS_DROPPED.labels("stopping" if self._stopping else "full").inc()
            PREDICTIONS_BUFFERED.set(len(self._buffer))
            self._changed.notify()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Write what is left, within so many seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            if self._buffer:
                PREDICTIONS_DROPPED.labels("stopping").inc(len(self._buffer))
                logger.warning("predictions were lost", extra={"fields": {"records": len(self._buffer)}})
        if not self._thread.is_alive():
            self._store.close()

    def _work(self) -> None:
        pause = FIRST_PAUSE
        self._write([])  # makes the tables
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._buffer)
                if not self._buffer:
                    return
                if not self._stopping and len(self._buffer) < BATCH_RECORDS:
                    self._changed.wait_for(
                        lambda: self._stopping or len(self._buffer) >= BATCH_RECORDS, timeout=GATHER_SECONDS
                    )
                batch = [self._buffer[position] for position in range(min(BATCH_RECORDS, len(self._buffer)))]
            if self._write(batch):
                pause = FIRST_PAUSE
                with self._changed:  # only now: what a failing store did not take stays at the front
                    for _ in batch:
                        self._buffer.popleft()
                    PREDICTIONS_BUFFERED.set(len(self._buffer))
            else:
                with self._changed:
                    if self._stopping:
                        return
                    self._changed.wait_for(lambda: self._stopping, timeout=pause)
                pause = min(LAST_PAUSE, pause * 2)

    def _write(self, batch: Sequence[PredictionRecord]) -> bool:
        """Whether these records are done with: written, or refused for good."""
        try:
            if not self._prepared:
                self._store.prepare()
                self._prepared = True
                logger.info("recording predictions", extra={"fields": {"store": self._store.name}})
            if batch:
                self._store.write(batch)
        except (OperationalError, InterfaceError, OSError) as error:  # the store is away, or busy
            self._say_failing(error)
            return False
        except Exception as error:
            if not self._prepared or not isinstance(error, SQLAlchemyError):
                self._say_failing(error)
                return False
            return self._write_one_by_one(batch)
        if self._failing:
            self._failing = False
            logger.info("predictions are recorded again")
        PREDICTIONS_RECORDED.inc(len(batch))
        return True

    def _write_one_by_one(self, batch: Sequence[PredictionRecord]) -> bool:
        """One record that the store refuses must not keep out the others."""
        for record in batch:
            try:
                self._store.write([record])
                PREDICTIONS_RECORDED.inc()
            except (OperationalError, InterfaceError, OSError) as error:
                self._say_failing(error)
                return False
            except SQLAlchemyError as error:
                PREDICTIONS_DROPPED.labels("refused").inc()
                logger.warning("the store refused a prediction", extra={"fields": {"error": type(error).__name__}})
        return True

    def _say_failing(self, error: Exception) -> None:
        """Once an outage; a driver's own message may quote what it was given, so only its kind is said."""
        if not self._failing:
            self._failing = True
            cause = getattr(error, "orig", None) or error
            fields = {"store": self._store.name, "error": type(error).__name__, "cause": type(cause).__name__}
            logger.warning("predictions cannot be recorded", extra={"fields": fields})
