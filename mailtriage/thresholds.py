"""Compiles a wanted precision into the confidence that a routed mail needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_MAILS = 20  # fewer routed validation mails prove no precision worth the name


def compile_threshold(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], precision: float, certainty: float
) -> float | None:
    """The smallest confidence at and above which at least `precision` of the mails are right.

    A threshold holds where the lower bound of the precision above it (Clopper and Pearson 1934), at the given
    certainty, is no less than wanted.

    Args:
        confidence: of the chosen label on validation mails, shape (mails,).
        correct: whether that label was right, shape (mails,).
        precision: wanted share of right labels, such as 0.95.
        certainty: how sure the bound is, such as 0.9.

    Returns:
        The threshold, or `None` where no threshold is proven: then nothing is routed.
    """
    order = np.argsort(-confidence, kind="stable")
    accepted = np.arange(1, len(order) + 1)
    right = np.cumsum(correct[order])
    bound = _lower_bound(right, accepted, certainty)
    ranked = confidence[order]
    last_of_ties = np.append(ranked[1:] < ranked[:-1], True)
    proven = np.flatnonzero((bound >= precision) & (accepted >= LEAST_MAILS) & last_of_ties)
    return float(ranked[proven[-1]]) if len(proven) else None


def _lower_bound(right: NDArray[Any], accepted: NDArray[Any], certainty: float) -> NDArray[np.float64]:
    from scipy.stats import beta

    with np.errstate(invalid="ignore"):
        bound = beta.ppf(1 - certainty, right, accepted - right + 1)
    return np.where(right > 0, bound, 0.0)
