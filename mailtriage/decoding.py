"""From logits to three labels that may stand together, and a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mailtriage.errors import BundleError
from mailtriage.taxonomy import Taxonomy

Logits = np.ndarray[Any, np.dtype[np.float32]]
Probabilities = np.ndarray[Any, np.dtype[np.float64]]
Decision = Literal["route", "review"]


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and the calibrated probability that it is right."""

    label: str
    confidence: float

    def to_record(self) -> dict[str, Any]:
        return {"label": self.label, "confidence": round(self.confidence, 4)}


@dataclass(frozen=True, slots=True)
class Decoded:
    """The answer for one mail: a label a task, the runners-up, and whether it may be routed without a person."""

    labels: Mapping[str, LabelScore]
    alternatives: Mapping[str, tuple[LabelScore, ...]]
    decision: Decision


@dataclass(frozen=True)
class Decoder:
    """Calibrates, picks the most probable valid combination, and applies thresholds.

    Args:
        taxonomy: tasks, labels and valid combinations.
        temperatures: a task's logits are divided by its temperature (Guo et al. 2017, arXiv:1706.04599).
        thresholds: a mail is routed where each task's confidence reaches its threshold; `None` is never reached.
        runners_up: how many alternatives a task an answer names.
    """

    taxonomy: Taxonomy
    temperatures: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, float | None] = field(default_factory=dict)
    runners_up: int = 2

    def probabilities(self, logits: Mapping[str, Logits]) -> dict[str, Probabilities]:
        """Calibrated probabilities a task, shape (mails, labels); retired labels have probability 0.

        Raises:
            BundleError: the logits lack a task, or have another number of labels than the taxonomy.
        """
        return {task.id: self._task_probabilities(task.id, logits) for task in self.taxonomy.tasks}

    def best_combinations(self, probabilities: Mapping[str, Probabilities]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The most probable valid combination a mail, as label numbers: shape (mails, tasks)."""
        tasks = self.taxonomy.task_ids
        if self.taxonomy.combinations is None:
            return np.stack([probabilities[task].argmax(axis=1) for task in tasks], axis=1)
        valid = self.taxonomy.valid_indices
        score = np.zeros((len(probabilities[tasks[0]]), len(valid)))
        for position, task in enumerate(tasks):
            with np.errstate(divide="ignore"):
                score += np.log(probabilities[task])[:, valid[:, position]]
        best: np.ndarray[Any, np.dtype[np.int64]] = valid[score.argmax(axis=1)]
        return best

    def decode(self, logits: Mapping[str, Logits]) -> list[Decoded]:
        """One answer a row of `logits` (task -> array of shape (mails, labels))."""
        probabilities = self.probabilities(logits)
        return [
            self._answer(chosen, {task: values[row] for task, values in probabilities.items()})
            for row, chosen in enumerate(self.best_combinations(probabilities))
        ]

    def undecidable(self) -> Decoded:
        """The answer for a mail of which nothing is left after cleaning: no model is asked, a person looks."""
        labels = {task.id: LabelScore(task.labels[chosen].id, 0.0) for task, chosen in self._first_combination()}
        return Decoded(labels, dict.fromkeys(labels, ()), "review")

    def _first_combination(self) -> Any:
        return zip(self.taxonomy.tasks, self.taxonomy.valid_indices[0].tolist(), strict=True)

    def _answer(self, chosen: np.ndarray[Any, Any], probabilities: Mapping[str, Probabilities]) -> Decoded:
        labels, alternatives = {}, {}
        for task, index in zip(self.taxonomy.tasks, chosen.tolist(), strict=True):
            values = probabilities[task.id]
            labels[task.id] = LabelScore(task.labels[index].id, float(values[index]))
            order = [
                other for other in np.argsort(-values, kind="stable").tolist() if other != index and values[other] > 0
            ]
            alternatives[task.id] = tuple(
                LabelScore(task.labels[i].id, float(values[i])) for i in order[: self.runners_up]
            )
        sure = all(self._reaches_threshold(task, score) for task, score in labels.items())
        return Decoded(labels, alternatives, "route" if sure else "review")

    def _reaches_threshold(self, task_id: str, score: LabelScore) -> bool:
        threshold = self.thresholds.get(task_id, 0.0)
        return threshold is not None and score.confidence >= threshold

    def _task_probabilities(self, task_id: str, logits: Mapping[str, Logits]) -> Probabilities:
        task = self.taxonomy.task(task_id)
        if task_id not in logits or logits[task_id].shape[1:] != (len(task.labels),):
            found = logits[task_id].shape if task_id in logits else "none"
            raise BundleError(f"expected logits of task '{task_id}' for {len(task.labels)} labels, found {found}")
        scaled = logits[task_id].astype(np.float64) / self.temperatures.get(task_id, 1.0)
        retired = [i for i, label in enumerate(task.labels) if label.state == "retired"]
        scaled[:, retired] = -np.inf
        scaled -= scaled.max(axis=1, keepdims=True)
        values: Probabilities = np.exp(scaled)
        values /= values.sum(axis=1, keepdims=True)
        return values
