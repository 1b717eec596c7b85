"""Confidence that means what it says: one temperature a task (Guo et al. 2017, arXiv:1706.04599)."""

from __future__ import annotations

import numpy as np

from mailtriage.decoding import Logits
from mailtriage.metrics import UNLABELLED, Labels

LOWEST, HIGHEST = 0.2, 10.0
STEPS = 60  # of golden-section search: far below the noise of any validation set


def fit_temperature(logits: Logits, true: Labels) -> float:
    """The temperature with the least negative log-likelihood on validation mails; 1.0 where none is labelled.

    Args:
        logits: shape (mails, labels).
        true: label numbers, shape (mails,).
    """
    known = true != UNLABELLED
    if not known.any():
        return 1.0
    values, target = logits[known].astype(np.float64), true[known]
    low, high = np.log(LOWEST), np.log(HIGHEST)
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(STEPS):  # the likelihood has one minimum in log temperature
        left, right = high - golden * (high - low), low + golden * (high - low)
        if negative_log_likelihood(values / np.exp(left), target) < negative_log_likelihood(
            values / np.exp(right), target
        ):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def negative_log_likelihood(logits: Logits, true: Labels) -> float:
    """Mean over the mails, in nats."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(true)), true]).mean())
