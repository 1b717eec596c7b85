"""A new model against the one that serves: which answers change, for better or worse, and whether that is luck."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mailtriage.bundle import Bundle
from mailtriage.cleaning import Cleaned
from mailtriage.engines import OnnxEngine
from mailtriage.errors import TaxonomyError
from mailtriage.examples import Example
from mailtriage.inference import Prediction, Triage, forward_in_batches
from mailtriage.mail import Email
from mailtriage.metrics import BOOTSTRAP_SAMPLES, UNLABELLED, Labels
from mailtriage.migration import Migration
from mailtriage.taxonomy import Taxonomy

UNKNOWN = -1  # an answer that has no counterpart in the new taxonomy: never right
FLIPS = "flips.csv"


def answers_of(bundle: Bundle, taxonomy: Taxonomy, examples: Sequence[Example]) -> dict[str, Labels]:
    """What a bundle of maybe another taxonomy answers, in numbers of `taxonomy`: task -> (mails,).

    Renamed and merged labels are translated. A label that was split, a task that the bundle lacks, and a label that
    is gone give `UNKNOWN`.
    """
    predictions = predict_examples(Triage.from_bundle(bundle), bundle, examples)
    translations = _translations(bundle.taxonomy, taxonomy)
    return {
        task: np.array(
            [
                translations[task].get(prediction.decoded.labels[task].label, UNKNOWN)
                if task in prediction.decoded.labels
                else UNKNOWN
                for prediction in predictions
            ],
            dtype=np.int64,
        )
        for task in taxonomy.task_ids
    }


def predict_examples(triage: Triage, bundle: Bundle, examples: Sequence[Example]) -> list[Prediction]:
    """Answers for mails that are cleaned already."""
    mails = [Email(id=mail.id, custodian_bank=mail.custodian_bank) for mail in examples]
    prepared = triage.tokenise(mails, [Cleaned(mail.subject, mail.text, ()) for mail in examples])
    logits = forward_in_batches(OnnxEngine(bundle).forward, prepared.tokens) if prepared.answerable else {}
    return triage.finish(prepared, logits)


def compare(
    taxonomy: Taxonomy, true: Mapping[str, Labels], new: Mapping[str, Labels], old: Mapping[str, Labels]
) -> dict[str, Any]:
    """Task -> `macro_f1` and `accuracy` of the champion, and how many answers are `changed`, `better` and `worse`.

    Beside the tasks, `mean_macro_f1`, and what the new model gains on it: `difference`, its 95 % `interval` and the
    two-sided `p_value` of a paired bootstrap over mails (Efron and Tibshirani 1993, ch. 16): mails are drawn again,
    each with both answers.
    """
    result = scores(taxonomy, true, old)
    for task in taxonomy.tasks:
        known = true[task.id] != UNLABELLED
        t, n, o = (labels[task.id][known] for labels in (true, new, old))
        result[task.id] |= {
            "changed": int((n != o).sum()),
            "better": int(((n == t) & (o != t)).sum()),
            "worse": int(((n != t) & (o == t)).sum()),
        }
    return result | _bootstrap(taxonomy, true, new, old)


def scores(taxonomy: Taxonomy, true: Mapping[str, Labels], answers: Mapping[str, Labels]) -> dict[str, Any]:
    """Task -> `macro_f1` and `accuracy` of what `answers_of` gave, and `mean_macro_f1`."""
    result: dict[str, Any] = {}
    for task in taxonomy.tasks:
        known = true[task.id] != UNLABELLED
        t, o = true[task.id][known], answers[task.id][known]
        result[task.id] = {
            "macro_f1": round(_macro_f1(t, o, np.ones(len(t)), len(task.labels)), 4),
            "accuracy": round(float((t == o).mean()), 4) if len(t) else 0.0,
        }
    result["mean_macro_f1"] = round(float(np.mean([result[task]["macro_f1"] for task in taxonomy.task_ids])), 4)
    return result


def flips(
    taxonomy: Taxonomy,
    examples: Sequence[Example],
    true: Mapping[str, Labels],
    new: Mapping[str, Labels],
    old: Mapping[str, Labels],
) -> Iterator[tuple[str, str, str, str, str, str]]:
    """(id, task, true label, champion's answer, new answer, verdict) of each answer that changes; no text of a mail."""
    for task in taxonomy.tasks:
        for row in np.flatnonzero(new[task.id] != old[task.id]).tolist():
            t, o, n = (_name(task.label_ids, int(labels[task.id][row])) for labels in (true, old, new))
            verdict = "better" if t and n == t else "worse" if t and o == t else "unknown" if not t else "both wrong"
            yield examples[row].id, task.id, t, o, n, verdict


def write_flips(path: Path, rows: Iterator[tuple[str, ...]]) -> int:
    """Write the CSV that a person opens; returns the number of rows."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "task", "true", "champion", "new", "verdict"))
        count = 0
        for count, row in enumerate(rows, start=1):  # noqa: B007
            writer.writerow(row)
    return count


def _translations(old: Taxonomy, new: Taxonomy) -> dict[str, dict[str, int]]:
    try:
        targets = Migration.between(old, new).targets
    except TaxonomyError:  # no common history: labels of the same name are the same
        targets = {task.id: {label: (label,) for label in task.label_ids} for task in old.tasks}
    return {
        task.id: {
            label: task.index(reached[0])
            for label, reached in targets.get(task.id, {}).items()
            if len(reached) == 1 and reached[0] in task.label_ids
        }
        for task in new.tasks
    }


def _bootstrap(
    taxonomy: Taxonomy, true: Mapping[str, Labels], new: Mapping[str, Labels], old: Mapping[str, Labels], seed: int = 0
) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    mails = len(next(iter(true.values())))
    gains = [
        _gain(taxonomy, true, new, old, random.multinomial(mails, np.full(mails, 1 / mails)))
        for _ in range(BOOTSTRAP_SAMPLES)
    ]
    drawn = np.array(gains)
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return {
        "difference": round(_gain(taxonomy, true, new, old, np.ones(mails)), 4),
        "interval": [round(float(end), 4) for end in np.quantile(drawn, [0.025, 0.975])],
        "p_value": round(min(1.0, 2 * (int(tail) + 1) / (len(drawn) + 1)), 4),
    }


def _gain(
    taxonomy: Taxonomy,
    true: Mapping[str, Labels],
    new: Mapping[str, Labels],
    old: Mapping[str, Labels],
    weights: NDArray[Any],
) -> float:
    """Mean macro-F1 of the new model less that of the old one, each mail counted by its weight."""
    gains = []
    for task in taxonomy.tasks:
        known = true[task.id] != UNLABELLED
        t, w, count = true[task.id][known], weights[known].astype(np.float64), len(task.labels)
        gains.append(_macro_f1(t, new[task.id][known], w, count) - _macro_f1(t, old[task.id][known], w, count))
    return float(np.mean(gains))


def _macro_f1(true: Labels, predicted: Labels, weights: NDArray[np.float64], labels: int) -> float:
    """As `metrics.macro_f1`, for weighted mails and answers that may be `UNKNOWN`."""
    answered = predicted != UNKNOWN
    hits = np.bincount(true[true == predicted], weights[true == predicted], labels)
    both = np.bincount(true, weights, labels) + np.bincount(predicted[answered], weights[answered], labels)
    occurs = both > 0
    return float((2 * hits[occurs] / both[occurs]).mean()) if occurs.any() else 0.0


def _name(labels: Sequence[str], number: int) -> str:
    return labels[number] if number >= 0 else ""
