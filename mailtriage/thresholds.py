"""Compiles a wanted precision into the confidence that a routed mail needs.

The promise is about a threshold that was chosen by looking at validation mails, so that the bound of Clopper and
Pearson (1934) at the threshold that looks best would be too good. Here mails are taken from the surest down and looked
at after each of a fixed series of ranks, as a group-sequential trial looks at its patients (Pocock 1977, Biometrika
64). Each look has a limit of wrong answers. Answers that are right with just the wanted precision stay within any of
the limits with a chance of at most `1 - certainty`; that chance is computed, not bounded. After a look has proven
something, the later ones are tested anew with the whole chance: a claim about them is false only if the last good mail
stands before them (closed testing, Marcus et al. 1976, Biometrika 63).

It rests on mails being alike in validation and service, and on answers below the last good threshold being right less
often than wanted. `benchmarks/thresholds.py` compares it with other procedures, also where that does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mailtriage.config import TrainingConfig
from mailtriage.decoding import MAIL, Decoder, Logits, Threshold
from mailtriage.errors import ConfigError
from mailtriage.metrics import UNLABELLED, Flags, Floats, Labels

RATIO = 1.05  # of a rank to the one before: looks that are closer gain little
BISECTIONS = 20  # of the level; far below what whole mails can tell apart

Ranks = tuple[int, ...]


def compile_threshold(confidence: Floats, correct: Flags, precision: float, certainty: float) -> float | None:
    """The smallest confidence at and above which at least `precision` of the answers are right, as far as proven.

    Args:
        confidence: of the answers on validation mails, shape (mails,).
        correct: whether each answer was right, shape (mails,).
        precision: wanted share of right answers, such as 0.95.
        certainty: the chance that the promise holds, such as 0.9.

    Returns:
        The threshold, or `None` where none is proven: then nothing is routed.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~correct[order])
    ranks, proven = looks(confidence[order], precision, certainty), 0
    while ranks:
        within = [
            rank
            for rank, limit in zip(ranks, limits(ranks, precision, certainty), strict=True)
            if wrong[rank - 1] <= limit
        ]
        if not within:
            break
        proven = within[-1]
        ranks = tuple(rank for rank in ranks if rank > proven)
    return float(confidence[order[proven - 1]]) if proven else None


def looks(confidence: Floats, precision: float, certainty: float) -> Ranks:
    """How many of the surest mails each look takes, from the fewest that can prove anything to all.

    Args:
        confidence: from the surest down, shape (mails,); mails that are equally sure are taken together.
    """
    mails = len(confidence)
    wanted = math.ceil(math.log(1 - certainty) / math.log(precision))
    ends = np.flatnonzero(np.diff(confidence, append=-np.inf)) + 1
    ranks = set()
    while wanted <= mails:
        rank = int(ends[np.searchsorted(ends, wanted)])
        ranks.add(rank)
        wanted = max(math.ceil(rank * RATIO), rank + 1) if rank < mails else mails + 1
        wanted = mails if rank < mails < wanted else wanted
    return tuple(sorted(ranks))


@lru_cache(maxsize=1024)
def limits(ranks: Ranks, precision: float, certainty: float) -> tuple[int, ...]:
    """The most wrong answers that still prove `precision` at each rank; -1 where even none is too many.

    Each look has a level in inverse proportion to its rank: early looks need it most, and later ones get it back once
    an early one has proven something.
    """
    error = 1 - certainty
    shares = ranks[0] / np.array(ranks)
    low, high = error / len(ranks) / ranks[-1], error
    found = _most_wrong(ranks, precision, high * shares)
    between = _wrong_between(ranks, int(found.max()), precision)
    if _chance_within(found, between) > error:
        for _ in range(BISECTIONS):
            level = math.sqrt(low * high)
            tried = _most_wrong(ranks, precision, level * shares)
            low, high = (level, high) if _chance_within(tried, between) <= error else (low, level)
        found = _most_wrong(ranks, precision, low * shares)
    return tuple(found.tolist())


def _most_wrong(ranks: Ranks, precision: float, levels: Floats) -> Labels:
    """The most wrong answers of each rank's mails whose chance, or fewer's, is within the rank's level; -1 if none."""
    from scipy.stats import binom

    most = binom.ppf(levels, ranks, 1 - precision).astype(np.int64)
    return np.asarray(most - (binom.cdf(most, ranks, 1 - precision) > levels))


def _wrong_between(ranks: Ranks, largest: int, precision: float) -> list[Floats]:
    """The chance of 0, 1, ... `largest` wrong answers among the mails from each look to the next, one array a look."""
    from scipy.stats import binom

    mails = np.diff(ranks, prepend=0).tolist()
    return [binom.pmf(np.arange(min(largest, count) + 1), count, 1 - precision) for count in mails]


def _chance_within(most_wrong: Labels, between: list[Floats]) -> float:
    """The chance that wrong answers stay within the limit at any look, by the chances of those `between` looks."""
    largest = int(most_wrong.max())
    if largest < 0:  # no look allows even none
        return 0.0
    chances, within = np.ones(1), 0.0
    for limit, more in zip(most_wrong.tolist(), between, strict=True):
        chances = np.convolve(chances, more[: largest + 1])[: largest + 1]
        within += float(chances[: limit + 1].sum())
        chances[: limit + 1] = 0
    return within


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
    coverage = _coverage(decoder, thresholds, config.route_by, logits)
    left = None if config.mails_a_day is None else round(config.mails_a_day * (1 - coverage), 1)
    return result | {"expected_coverage": coverage, "left_a_day": left}


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
