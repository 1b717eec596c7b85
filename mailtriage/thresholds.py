"""Compiles a wanted precision into the confidence that a routed mail needs.

The promise is about a threshold that was chosen by looking at validation mails, so that one bound a threshold would be
too good. Thresholds come from a fixed grid and are tested from the strictest down by the fallback procedure (Wiens
2003), which keeps the chance of any false claim below `1 - certainty`; a single test is the exact binomial one, whose
bound is that of Clopper and Pearson (1934). Learn then Test (Angelopoulos et al. 2021, arXiv:2110.01052) is the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mailtriage.config import TrainingConfig
from mailtriage.decoding import MAIL, Decoder, Logits, Threshold
from mailtriage.errors import ConfigError
from mailtriage.metrics import UNLABELLED, Flags, Floats, Labels

GRID = (0.995, 0.99, 0.98, 0.97, 0.95, 0.92, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)


def compile_threshold(confidence: Floats, correct: Flags, precision: float, certainty: float) -> float | None:
    """The smallest confidence of `GRID` at and above which at least `precision` of the answers are right.

    Args:
        confidence: of the answers on validation mails, shape (mails,).
        correct: whether each answer was right, shape (mails,).
        precision: wanted share of right answers, such as 0.95.
        certainty: the chance that the promise holds, such as 0.9.

    Returns:
        The threshold, or `None` where none is proven: then nothing is routed.
    """
    from scipy.stats import binom

    accepted = np.array([(confidence >= threshold).sum() for threshold in GRID])
    provable = accepted >= math.log(1 - certainty) / math.log(precision)
    tested = np.flatnonzero(provable & (np.diff(accepted, prepend=0) > 0))  # by counts alone, whatever was right
    share = (1 - certainty) / max(len(tested), 1)
    found, level = None, 0.0
    for position in tested.tolist():
        level += share
        right = int(correct[confidence >= GRID[position]].sum())
        if binom.sf(right - 1, accepted[position], precision) <= level:
            found = GRID[position]
        else:
            level = 0.0
    return found


def compile_thresholds(
    config: TrainingConfig, decoder: Decoder, logits: Mapping[str, Logits], targets: Labels
) -> dict[str, Any]:
    """The content of `thresholds.json`, from the answers that serving would give to validation mails.

    Args:
        config: `route_promise` says what is right in `route_precision` of what is routed: every label of a `mail`
            (for each label of the task `route_by`, if it names one), each `task` alone, or each `label` alone.
        decoder: calibrated, without thresholds.
        targets: shape (mails, tasks).

    Raises:
        ConfigError: `route_by` is no task, or stands with another promise than `mail`.
    """
    tasks = decoder.taxonomy.task_ids
    if config.route_by is not None and (config.route_promise != "mail" or config.route_by not in tasks):
        raise ConfigError(
            f"expected 'route_by' to be one of {', '.join(tasks)}, with 'route_promise: mail'; found "
            f"'{config.route_by}' with '{config.route_promise}'"
        )
    chosen, sure = decoder.joint(decoder.probabilities(logits))
    thresholds: dict[str, Threshold] = {}
    if config.route_promise == "mail":
        complete = (targets != UNLABELLED).all(axis=1)
        right = (chosen == targets).all(axis=1)
        groups = None if config.route_by is None else chosen[:, tasks.index(config.route_by)]
        thresholds[MAIL] = _compile(config, decoder, config.route_by, groups, complete, sure, right)
    else:
        probabilities = decoder.probabilities(logits)
        for position, task in enumerate(tasks):
            labels = chosen[:, position]
            confidence = probabilities[task][np.arange(len(labels)), labels]
            known, right = targets[:, position] != UNLABELLED, labels == targets[:, position]
            groups = labels if config.route_promise == "label" else None
            thresholds[task] = _compile(config, decoder, task, groups, known, confidence, right)
    result = {
        "promise": config.route_promise,
        "by": config.route_by,
        "precision": config.route_precision,
        "confidence": config.route_confidence,
        "thresholds": thresholds,
    }
    return result | {"expected_coverage": _coverage(decoder, thresholds, config.route_by, logits)}


def _compile(
    config: TrainingConfig,
    decoder: Decoder,
    task: str | None,
    groups: NDArray[np.int64] | None,
    used: Flags,
    confidence: Floats,
    right: Flags,
) -> Threshold:
    """One threshold, or one a label of `task` where `groups` holds each mail's label."""
    wanted = config.route_precision, config.route_confidence
    if groups is None or task is None:
        return compile_threshold(confidence[used], right[used], *wanted)
    return {
        label: compile_threshold(confidence[used & (groups == number)], right[used & (groups == number)], *wanted)
        for number, label in enumerate(decoder.taxonomy.task(task).label_ids)
    }


def _coverage(
    decoder: Decoder, thresholds: Mapping[str, Threshold], by: str | None, logits: Mapping[str, Logits]
) -> float:
    """Share of validation mails that would be routed."""
    routing = Decoder(decoder.taxonomy, decoder.temperatures, thresholds, by)
    decisions = [decoded.decision == "route" for decoded in routing.decode(logits)]
    return round(float(np.mean(decisions)), 4) if decisions else 0.0
