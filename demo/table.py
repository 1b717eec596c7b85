"""The demo's table: what each mail said, what was cut, what it was labelled, and what happens to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from mailtriage.cleaning import Cleaned, clean
from mailtriage.mail import Email
from mailtriage.taxonomy import Taxonomy

SHOWN = 150  # characters of a mail


def answers_table(mails: Sequence[Email], answers: Sequence[Mapping[str, Any]], taxonomy: Taxonomy) -> Table:
    """One row a mail; `answers` are the REST route's, in the order of `mails`."""
    table = Table(show_lines=True, header_style="bold", expand=True)
    table.add_column("the client wrote", ratio=4)
    table.add_column("cut", ratio=3, overflow="fold")
    for task in taxonomy.tasks:  # a label is never cut short, however narrow the terminal
        table.add_column(task.name.get("en", task.id).lower(), ratio=3, overflow="fold")
    table.add_column("decision", min_width=len("decision"), no_wrap=True)
    for mail, answer in zip(mails, answers, strict=True):
        cleaned = clean(mail.body, mail.subject)
        labels = [_label(answer["labels"][task.id]) for task in taxonomy.tasks]
        table.add_row(_words(cleaned), _cut(cleaned), *labels, _decision(answer["decision"]))
    return table


def _words(cleaned: Cleaned) -> Text:
    text = " ".join(cleaned.text.split())
    shown = text if len(text) <= SHOWN else text[:SHOWN].rsplit(" ", 1)[0] + " ..."
    return Text(cleaned.subject + "\n" if cleaned.subject else "", style="bold").append(shown, style="not bold")


def _cut(cleaned: Cleaned) -> str:
    characters: Counter[str] = Counter()
    for removed in cleaned.removed:
        if removed.kind != "whitespace":
            characters[removed.kind] += removed.end - removed.start
    return "\n".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in characters.most_common()) or "nothing"


def _label(score: Mapping[str, Any]) -> str:
    return f"{score['label']}\n{score['confidence']:.0%}"


def _decision(decision: str) -> Text:
    return Text(decision, style="green" if decision == "route" else "yellow")
