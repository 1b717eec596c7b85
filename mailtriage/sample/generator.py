"""Draws labels, times and custodian banks, has a mail written for each, and files some wrongly, as people do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

from mailtriage.mail import Email
from mailtriage.sample.composer import Composer
from mailtriage.sample.dice import Dice, Weighted
from mailtriage.sample.letter import Letter
from mailtriage.sample.library import mix, triples
from mailtriage.sample.markup import html_body
from mailtriage.sample.plain import plain_body

TASKS = ("line_of_business", "queue", "topic")
FIRST_DAY = date(2025, 5, 1)
DAYS = 549  # 18 months: the last mail comes on 31 October 2026
ENGLISH_SHARE = 0.2
HTML_SHARE = 0.55
DAMAGED_SHARE = 0.007

_WEEKDAYS = (1.25, 1.12, 1.05, 1.0, 0.85, 0.32, 0.28)
_HOURS = Weighted(
    tuple(range(24)), (1, 0.5, 0.3, 0.3, 0.4, 1, 3, 7, 10, 12, 12, 11, 9, 9, 10, 10, 9, 9, 8, 8, 9, 8, 5, 2.5)
)


def generate(rows: int, seed: int, *, wrong_labels: float = 0.03, missing_labels: float = 0.04) -> Iterator[Email]:
    """Yield `rows` labelled mails; mail number i depends on `seed` and i alone, on every platform.

    Args:
        wrong_labels: share of mails that carry the labels of another combination, still a valid one.
        missing_labels: share of labels that are `None`.
    """
    desk = Desk(wrong_labels, missing_labels)
    for number in range(rows):
        yield desk.mail(number, seed)


def write_sample(rows: int, seed: int, output: Path) -> None:
    """Write `rows` mails to `output`, one JSON object a line; the file appears whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            for mail in generate(rows, seed):
                file.write(json.dumps(mail.to_record(), ensure_ascii=False) + "\n")
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Draft:
    """A mail before it is laid out and filed. `dice` goes on from here."""

    dice: Dice
    labels: tuple[str, str, str]
    language: str
    received_at: datetime
    custodian_bank: str
    letter: Letter


class Desk:
    """Where mails come in and are filed."""

    def __init__(self, wrong_labels: float = 0.0, missing_labels: float = 0.0) -> None:
        self._composer = Composer()
        self._wrong_labels = wrong_labels
        self._missing_labels = missing_labels
        combinations = list(triples())
        self._triples = Weighted([labels for labels, _ in combinations], [weight for _, weight in combinations])
        banks: Mapping[str, Mapping[str, float]] = {
            line: share for line, share in mix()["custodian_banks"].items() if line != "known"
        }
        self._banks = {line: Weighted(tuple(share), tuple(share.values())) for line, share in banks.items()}
        self._bank_known = float(mix()["custodian_banks"]["known"])
        self._days = {topic: _days(topic) for topic in {topic for (_, _, topic), _ in combinations}}

    def draft(self, number: int, seed: int) -> Draft:
        """What mail `number` of this seed says, and its true labels."""
        dice = Dice(f"{seed}/{number}")
        labels = self._triples.draw(dice)
        received_at = self._time(dice, labels[2])
        bank = self._banks[labels[0]].draw(dice)
        language = "en" if dice.chance(ENGLISH_SHARE) else "de"
        letter = self._composer.write(dice, language, labels, received_at, bank)
        return Draft(dice, labels, language, received_at, bank, letter)

    def mail(self, number: int, seed: int) -> Email:
        """Mail `number` of this seed."""
        draft = self.draft(number, seed)
        dice, letter = draft.dice, draft.letter
        lay_out = html_body if dice.chance(HTML_SHARE) else plain_body
        body = lay_out(letter, dice, draft.language)
        return Email(
            id=f"s{seed}-{number:06d}",
            subject=letter.subject,
            body=_damaged(dice, body) if dice.chance(DAMAGED_SHARE) else body,
            received_at=draft.received_at,
            custodian_bank=draft.custodian_bank if dice.chance(self._bank_known) else None,
            labels=self._filed(dice, draft.labels),
        )

    def _time(self, dice: Dice, topic: str) -> datetime:
        day = self._days[topic].draw(dice)
        hour = _HOURS.draw(dice)
        clock = datetime(day.year, day.month, day.day, hour, dice.between(0, 59), dice.between(0, 59))
        return clock.replace(tzinfo=timezone(timedelta(hours=2 if _is_summer_time(day) else 1)))

    def _filed(self, dice: Dice, labels: tuple[str, str, str]) -> dict[str, str | None]:
        """The labels that the case got: sometimes those of a neighbour, sometimes none."""
        if dice.chance(self._wrong_labels):
            labels = self._mistaken(dice, labels)
        return {
            task: None if dice.chance(self._missing_labels) else label
            for task, label in zip(TASKS, labels, strict=True)
        }

    def _mistaken(self, dice: Dice, labels: tuple[str, str, str]) -> tuple[str, str, str]:
        """Another valid combination; mostly one that shares a label, as in a list where somebody slipped by a line."""
        others = [other for other in self._triples if other != labels]
        near = [other for other in others if sum(a == b for a, b in zip(other, labels, strict=True)) == 2]
        return dice.pick(near if near and dice.chance(0.6) else others)


def _damaged(dice: Dice, body: str) -> str:
    """The body after a mail server took it for another character set."""
    if dice.chance(0.5):
        return body.encode("utf-8").decode("cp1252", errors="replace")
    return "".join(letter if letter.isascii() else dice.pick("?\ufffd") for letter in body)


def _days(topic: str) -> Weighted[date]:
    """All days of the span, weighted by weekday, growth of the business, and the season of a topic."""
    season = mix()["seasons"].get(topic, {"months": [], "factor": 1})
    days = [FIRST_DAY + timedelta(days=number) for number in range(DAYS)]
    weights = [
        _WEEKDAYS[day.weekday()] * (1 + number / DAYS / 2) * (season["factor"] if day.month in season["months"] else 1)
        for number, day in enumerate(days)
    ]
    return Weighted(days, weights)


def _is_summer_time(day: date) -> bool:
    """Whether Berlin has summer time on this day, by the EU's rule: last Sunday of March to last Sunday of October.

    Written out because the time zone database is not on every machine, and the sample must be the same everywhere.
    """
    return _last_sunday(day.year, 3) <= day < _last_sunday(day.year, 10)


def _last_sunday(year: int, month: int) -> date:
    last = date(year, month, 31)
    return last - timedelta(days=(last.weekday() + 1) % 7)
