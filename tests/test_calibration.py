"""Calibration and thresholds, on draws whose truth is known."""

import numpy as np
import pytest

from mailtriage.calibration import fit_temperature, negative_log_likelihood
from mailtriage.metrics import UNLABELLED, expected_calibration_error
from mailtriage.thresholds import compile_threshold


def _draw(mails: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times too large for the labels drawn from them."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 2, (mails, 6))
    probabilities = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(6, p=row) for row in probabilities])
    return (honest * temperature).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_applied_is_found(temperature: float) -> None:
    logits, labels = _draw(6000, temperature)

    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.06)


def test_calibration_lowers_likelihood_loss_and_calibration_error() -> None:
    logits, labels = _draw(4000, 3.0)
    calibrated = logits / fit_temperature(logits, labels)

    assert negative_log_likelihood(calibrated, labels) < negative_log_likelihood(logits, labels)
    assert _ece(calibrated, labels) < 0.03 < _ece(logits, labels)


def test_mails_without_a_label_do_not_count() -> None:
    logits, labels = _draw(3000, 2.0)
    masked = np.concatenate([labels, np.full(3000, UNLABELLED)])

    assert fit_temperature(np.concatenate([logits, -logits]), masked) == fit_temperature(logits, labels)
    assert fit_temperature(logits, np.full(3000, UNLABELLED)) == 1.0


def test_a_threshold_keeps_its_promise_on_new_mails_as_often_as_it_says() -> None:
    kept = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        confidence = random.uniform(0.3, 1.0, 800)
        correct = random.uniform(size=800) < confidence
        threshold = compile_threshold(confidence, correct, precision=0.9, certainty=0.9)
        assert threshold is not None
        kept += (threshold + 1.0) / 2 >= 0.9  # the true precision above a threshold of this draw
    assert kept >= 0.85 * 60


def test_no_threshold_is_better_than_an_unproven_one() -> None:
    few = np.full(10, 0.99)

    assert compile_threshold(few, np.ones(10, dtype=bool), 0.95, 0.9) is None
    assert compile_threshold(np.full(500, 0.9), np.arange(500) % 2 == 0, 0.95, 0.9) is None


def _ece(logits: np.ndarray, labels: np.ndarray) -> float:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponent / exponent.sum(axis=1, keepdims=True)
    return expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
