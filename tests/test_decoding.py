"""Decoding: only valid combinations, honest confidences, and a decision."""

import numpy as np
import pytest

from mailtriage.decoding import Decoder
from mailtriage.errors import BundleError
from mailtriage.taxonomy import Taxonomy

TAXONOMY = Taxonomy.parse("""
version: "1"
tasks:
  line: {labels: {brokerage: , crypto: , old: {state: retired}}}
  topic: {labels: {order: , wallet: , tax: }}
valid:
  brokerage: [order, tax]
  crypto: [wallet, tax]
""")


def _logits(line: list[float], topic: list[float]) -> dict[str, np.ndarray]:
    return {"line": np.array([line], dtype=np.float32), "topic": np.array([topic], dtype=np.float32)}


def test_the_most_probable_valid_combination_wins_over_the_most_probable_labels() -> None:
    logits = _logits([1.0, 0.8, 0.0], [0.0, 2.0, 0.0])

    decoded = Decoder(TAXONOMY).decode(logits)[0]

    assert {task: score.label for task, score in decoded.labels.items()} == {"line": "crypto", "topic": "wallet"}


def test_no_answer_is_invalid_whatever_the_logits() -> None:
    random = np.random.default_rng(0)
    logits = {"line": random.normal(0, 3, (500, 3)), "topic": random.normal(0, 3, (500, 3))}

    answers = Decoder(TAXONOMY).decode(logits)

    assert all(TAXONOMY.is_valid({task: score.label for task, score in a.labels.items()}) for a in answers)


def test_confidences_are_the_calibrated_probabilities() -> None:
    decoder = Decoder(TAXONOMY, temperatures={"topic": 2.0})

    decoded = decoder.decode(_logits([9.0, 0.0, 0.0], [2.0, 0.0, 0.0]))[0]

    assert decoded.labels["topic"].confidence == pytest.approx(np.e / (np.e + 2))


def test_retired_labels_have_no_probability() -> None:
    decoded = Decoder(TAXONOMY).decode(_logits([0.0, 0.0, 50.0], [1.0, 0.0, 0.0]))[0]

    assert decoded.labels["line"].label == "brokerage"
    assert "old" not in {score.label for score in decoded.alternatives["line"]}


@pytest.mark.parametrize(
    ("thresholds", "decision"),
    [
        ({}, "route"),
        ({"line": 0.5, "topic": 0.5}, "route"),
        ({"line": 0.5, "topic": 0.999}, "review"),
        ({"line": None}, "review"),
    ],
)
def test_every_task_must_reach_its_threshold_to_route(thresholds: dict[str, float | None], decision: str) -> None:
    decoded = Decoder(TAXONOMY, thresholds=thresholds).decode(_logits([3.0, 0.0, 0.0], [3.0, 0.0, 0.0]))[0]

    assert decoded.decision == decision


def test_logits_of_another_model_are_refused() -> None:
    with pytest.raises(BundleError, match=r"task 'topic' for 3 labels, found \(1, 2\)"):
        Decoder(TAXONOMY).decode({"line": np.zeros((1, 3)), "topic": np.zeros((1, 2))})
    with pytest.raises(BundleError, match="'topic'"):
        Decoder(TAXONOMY).decode({"line": np.zeros((1, 3))})


def test_a_mail_without_text_is_for_a_person() -> None:
    decoded = Decoder(TAXONOMY).undecidable()

    assert decoded.decision == "review"
    assert all(score.confidence == 0 for score in decoded.labels.values())
