"""Figures that say how good the labels and the decisions are: pure functions of label numbers and probabilities.

Everything comes from confusion matrices, so that a figure and its bootstrap interval share one formula, and so that
the training loop and serving need numpy only. `tests/test_metrics.py` holds them against scikit-learn.

A mail without a label for a task has the number `UNLABELLED` and counts nowhere in that task. Averages over labels
take the labels that occur in the test data or in the predictions, as scikit-learn does by default: a label that the
test data lacks and the model never gives neither helps nor hurts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNLABELLED = -100  # what torch ignores in a loss, too
BOOTSTRAP_SAMPLES = 1000
INTERVAL = 0.95  # of a bootstrap or Wilson interval

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def classification(
    labels: Sequence[str], true: Labels, predicted: Labels, *, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> dict[str, Any]:
    """One task's entry of `metrics.json`: averages, and the same for each label.

    Args:
        labels: label ids in model order.
        true, predicted: label numbers, shape (mails,); `UNLABELLED` in `true` masks a mail.
        samples: how many resamples of the mails an interval rests on; 0 leaves intervals out.

    Returns:
        `accuracy`, `macro_f1`, `weighted_f1`, `precision` and `recall` (macro), `support` (labelled mails), and
        `labels`: id -> `precision`, `recall`, `f1`, `support`. `intervals` beside them hold (low, high) at 95 %.
    """
    confusion = confusion_matrix(len(labels), true, predicted)
    scores = Scores.of(confusion)
    low, high = _bootstrap(confusion, samples, seed) if samples and confusion.sum() else (None, None)
    entry: dict[str, Any] = {name: _rounded(getattr(scores, name)) for name in _AVERAGES}
    entry["support"] = int(confusion.sum())
    if low and high:
        entry["intervals"] = {name: _interval(getattr(low, name), getattr(high, name)) for name in _AVERAGES}
    entry["labels"] = {label: _label_entry(position, scores, low, high) for position, label in enumerate(labels)}
    return entry


def macro_f1(label_count: int, true: Labels, predicted: Labels) -> float:
    """Mean F1 over the labels that occur in `true` or `predicted`; what early stopping watches."""
    return float(Scores.of(confusion_matrix(label_count, true, predicted)).macro_f1)


def confusion_matrix(label_count: int, true: Labels, predicted: Labels) -> Labels:
    """Counts, shape (labels, labels): rows are true labels, columns predicted ones; unlabelled mails are left out."""
    known = true != UNLABELLED
    cells = np.bincount(true[known] * label_count + predicted[known], minlength=label_count**2)
    return cells.reshape(label_count, label_count).astype(np.int64)


_AVERAGES = ("accuracy", "macro_f1", "weighted_f1", "precision", "recall")


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one confusion matrix, or of many at once: leading axes are kept."""

    label_precision: Floats
    label_recall: Floats
    label_f1: Floats
    label_support: Floats
    accuracy: Floats
    macro_f1: Floats
    weighted_f1: Floats
    precision: Floats
    recall: Floats

    @classmethod
    def of(cls, confusion: NDArray[Any]) -> Scores:
        """Scores of matrices of shape (..., labels, labels); a share of nothing is 0."""
        hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
        support = confusion.sum(axis=-1)
        answers = confusion.sum(axis=-2)
        f1 = _share(2 * hits, support + answers)
        precision, recall = _share(hits, answers), _share(hits, support)
        occurs = (support + answers) > 0
        total = support.sum(axis=-1)
        return cls(
            label_precision=precision,
            label_recall=recall,
            label_f1=f1,
            label_support=support,
            accuracy=_share(hits.sum(axis=-1), total),
            macro_f1=_share((f1 * occurs).sum(axis=-1), occurs.sum(axis=-1)),
            weighted_f1=_share((f1 * support).sum(axis=-1), total),
            precision=_share((precision * occurs).sum(axis=-1), occurs.sum(axis=-1)),
            recall=_share((recall * occurs).sum(axis=-1), occurs.sum(axis=-1)),
        )


def exact_match(true: Mapping[str, Labels], predicted: Mapping[str, Labels]) -> dict[str, Any]:
    """Share of mails with every label right, over the mails that have every label."""
    complete = np.logical_and.reduce([true[task] != UNLABELLED for task in true])
    right = np.logical_and.reduce([true[task] == predicted[task] for task in true])
    return {"exact_match": _rounded(_share(right[complete].sum(), complete.sum())), "support": int(complete.sum())}


def invalid_share(predicted: Mapping[str, Labels], valid: Labels) -> float:
    """Share of mails whose labels must not stand together.

    `valid` is `Taxonomy.valid_indices`, shape (combinations, tasks), its columns in the order of `predicted`.
    """
    allowed = {tuple(row) for row in valid.tolist()}
    rows = np.stack(list(predicted.values()), axis=1).tolist()
    return _rounded(float(np.mean([tuple(row) not in allowed for row in rows]))) if rows else 0.0


def reliability(confidence: Floats, correct: Flags, bins: int = 15) -> list[dict[str, float]]:
    """Mean confidence and share of right answers in bins of equal width over 0 to 1; empty bins are left out."""
    which = _bins(confidence, bins)
    return [
        {
            "confidence": float(confidence[which == number].mean()),
            "accuracy": float(correct[which == number].mean()),
            "mails": int((which == number).sum()),
        }
        for number in np.unique(which)
    ]


def expected_calibration_error(confidence: Floats, correct: Flags, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over `reliability` bins, weighted by mails (Guo et al., 2017)."""
    rows = reliability(confidence, correct, bins)
    gap = sum(abs(row["confidence"] - row["accuracy"]) * row["mails"] for row in rows)
    return _rounded(gap / len(confidence)) if rows else 0.0


def calibration_error_by_chance(
    confidence: Floats, bins: int = 15, *, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> list[float]:
    """Between which two values 95 % of the errors lie of answers as sure as these that are right as often as they say.

    Chance alone makes an error, the larger the fewer mails; one within these bounds is no sign that confidence is off
    (consistency resampling; Bröcker and Smith 2007, Weather and Forecasting 22).
    """
    if not len(confidence):
        return [0.0, 0.0]
    which = _bins(confidence, bins)
    stated = np.bincount(which, weights=confidence, minlength=bins)
    rng = np.random.default_rng(seed)
    errors = [
        np.abs(np.bincount(which[rng.random(len(which)) < confidence], minlength=bins) - stated).sum() / len(which)
        for _ in range(samples)
    ]
    tail = (1 - INTERVAL) / 2
    return _interval(*np.quantile(errors, (tail, 1 - tail)))


def routing(accepted: Flags, correct: Flags) -> dict[str, Any]:
    """How many answers were given without a person, and how many of them were right.

    Args:
        accepted, correct: shape (mails,), mails with known labels only.

    Returns:
        `coverage` (share accepted), `precision` (share right of the accepted; null without any), its 95 % Wilson
        `interval`, and the counts `routed` and `mails`.
    """
    routed, right, mails = int(accepted.sum()), int((accepted & correct).sum()), len(accepted)
    return {
        "coverage": _rounded(_share(routed, mails)),
        "precision": _rounded(right / routed) if routed else None,
        "interval": list(wilson_interval(right, routed)) if routed else None,
        "routed": routed,
        "mails": mails,
    }


def coverage_curve(confidence: Floats, correct: Flags) -> tuple[Floats, Floats]:
    """Coverage and precision if the k most confident answers are accepted, for k = 1 to all; ties stay together."""
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True)) if len(order) else order
    counts = (ends + 1).astype(np.float64)
    return counts / max(len(order), 1), correct[order].cumsum()[ends] / counts


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson, 1927); trials > 0."""
    z = 1.959964
    share, spread = successes / trials, z * z / trials
    centre = share + spread / 2
    margin = z * np.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return _rounded((centre - margin) / (1 + spread)), _rounded((centre + margin) / (1 + spread))


def slice_scores(
    groups: Sequence[str], label_counts: Mapping[str, int], true: Mapping[str, Labels], predicted: Mapping[str, Labels]
) -> dict[str, Any]:
    """Accuracy and macro-F1 a task for each group of mails.

    `groups` names each mail's group, such as its language. Returns group -> `mails`, and task -> its two figures;
    groups from the largest to the smallest.
    """
    names = np.asarray(groups, dtype=object)
    sizes = {name: int((names == name).sum()) for name in set(groups)}
    result: dict[str, Any] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        member = names == name
        result[name] = {"mails": sizes[name]}
        for task, count in label_counts.items():
            scores = Scores.of(confusion_matrix(count, true[task][member], predicted[task][member]))
            result[name][task] = {"accuracy": _rounded(scores.accuracy), "macro_f1": _rounded(scores.macro_f1)}
    return result


def _bins(confidence: Floats, bins: int) -> Labels:
    """The number of each confidence's bin, of equal width over 0 to 1, upper ends included."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def _bootstrap(confusion: Labels, samples: int, seed: int) -> tuple[Scores, Scores]:
    """Lower and upper ends of percentile intervals (Efron, 1979).

    Drawing the mails again with replacement is the same as drawing the cells of their confusion matrix from a
    multinomial, which is one call.
    """
    total = int(confusion.sum())
    draws = np.random.default_rng(seed).multinomial(total, confusion.ravel() / total, size=samples)
    scores = Scores.of(draws.reshape(samples, *confusion.shape))
    tail = (1 - INTERVAL) / 2
    ends = [
        Scores(*(np.quantile(getattr(scores, name), quantile, axis=0) for name in Scores.__dataclass_fields__))
        for quantile in (tail, 1 - tail)
    ]
    return ends[0], ends[1]


def _label_entry(position: int, scores: Scores, low: Scores | None, high: Scores | None) -> dict[str, Any]:
    names = {"precision": "label_precision", "recall": "label_recall", "f1": "label_f1"}
    entry: dict[str, Any] = {name: _rounded(getattr(scores, field)[position]) for name, field in names.items()}
    entry["support"] = int(scores.label_support[position])
    if low and high:
        ends = {name: (getattr(low, field)[position], getattr(high, field)[position]) for name, field in names.items()}
        entry["intervals"] = {name: _interval(*pair) for name, pair in ends.items()}
    return entry


def _share(part: Any, whole: Any) -> Any:
    whole = np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def _rounded(value: Any) -> float:
    return round(float(value), 4)


def _interval(low: Any, high: Any) -> list[float]:
    return [_rounded(low), _rounded(high)]
