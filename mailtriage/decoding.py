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
Threshold = float | Mapping[str, float | None] | None  # one, or one a label; `None` is never reached
MAIL = "mail"  # the key of the threshold for a whole mail


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
    confidence: float = 0.0  # that every label is right


@dataclass(frozen=True)
class Decoder:
    """Calibrates, picks the most probable valid combination, and applies thresholds.

    Args:
        taxonomy: tasks, labels and valid combinations.
        temperatures: a task's logits are divided by its temperature (Guo et al. 2017, arXiv:1706.04599).
        thresholds: a mail is routed where each confidence reaches its threshold: the keys are tasks, or `mail` for the
            probability that every label is right. A threshold a label is looked up by the label that was chosen.
        by: the task whose label looks up the threshold of `mail`.
        runners_up: how many alternatives a task an answer names.
    """

    taxonomy: Taxonomy
    temperatures: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    by: str | None = None
    runners_up: int = 2

    def probabilities(self, logits: Mapping[str, Logits]) -> dict[str, Probabilities]:
        """Calibrated probabilities a task, shape (mails, labels); retired labels have probability 0.

        Raises:
            BundleError: the logits lack a task, or have another number of labels than the taxonomy.
        """
        return {task.id: self._task_probabilities(task.id, logits) for task in self.taxonomy.tasks}

    def best_combinations(self, probabilities: Mapping[str, Probabilities]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The most probable valid combination a mail, as label numbers: shape (mails, tasks)."""
        return self.joint(probabilities)[0]

    def joint(
        self, probabilities: Mapping[str, Probabilities]
    ) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Probabilities]:
        """The most probable valid combination, (mails, tasks), and its probability among the valid ones, (mails,)."""
        tasks = self.taxonomy.task_ids
        if self.taxonomy.combinations is None:
            best = np.stack([probabilities[task].argmax(axis=1) for task in tasks], axis=1)
            return best, np.prod([probabilities[task].max(axis=1) for task in tasks], axis=0)
        valid = self.taxonomy.valid_indices
        score = np.zeros((len(probabilities[tasks[0]]), len(valid)))
        for position, task in enumerate(tasks):
            with np.errstate(divide="ignore"):
                score += np.log(probabilities[task])[:, valid[:, position]]
        chosen = score.argmax(axis=1)
        top = score[np.arange(len(score)), chosen]
        with np.errstate(invalid="ignore"):
            shares = np.exp(score - top[:, None]).sum(axis=1)
        return valid[chosen], np.where(np.isfinite(top), 1 / shares, 0.0)

    def decode(self, logits: Mapping[str, Logits]) -> list[Decoded]:
        """One answer a row of `logits` (task -> array of shape (mails, labels))."""
        probabilities = self.probabilities(logits)
        return [
            self._answer(chosen, float(sure), {task: values[row] for task, values in probabilities.items()})
            for row, (chosen, sure) in enumerate(zip(*self.joint(probabilities), strict=True))
        ]

    def threshold(self, key: str, labels: Mapping[str, str]) -> float | None:
        """The threshold of a task, or of `mail`, for a mail that was given `labels`; 0 where there is none."""
        value = self.thresholds.get(key, 0.0)
        return value.get(labels[self.by or key if key == MAIL else key]) if isinstance(value, Mapping) else value

    def undecidable(self) -> Decoded:
        """The answer for a mail of which nothing is left after cleaning: no model is asked, a person looks."""
        labels = {task.id: LabelScore(task.labels[chosen].id, 0.0) for task, chosen in self._first_combination()}
        return Decoded(labels, dict.fromkeys(labels, ()), "review")

    def _first_combination(self) -> Any:
        return zip(self.taxonomy.tasks, self.taxonomy.valid_indices[0].tolist(), strict=True)

    def _answer(
        self, chosen: np.ndarray[Any, Any], confidence: float, probabilities: Mapping[str, Probabilities]
    ) -> Decoded:
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
        names = {task: score.label for task, score in labels.items()}
        found = {MAIL: confidence} | {task: score.confidence for task, score in labels.items()}
        wanted = {key: self.threshold(key, names) for key in found}
        sure = all(least is not None and found[key] >= least for key, least in wanted.items())
        return Decoded(labels, alternatives, "route" if sure else "review", confidence)

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
