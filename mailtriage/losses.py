"""What training minimises: the loss of each task, with rare labels helped as configured, and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from mailtriage.config import TrainingConfig
from mailtriage.metrics import UNLABELLED, Labels

FOCAL_GAMMA = 2.0  # the value that Lin et al. found best
LOSS_FLOOR = 0.01  # nats; keeps a task that is learnt from drawing all the weight


@dataclass(frozen=True)
class Objective:
    """A loss for logits and targets.

    Args:
        label_smoothing: share of the target spread over all labels.
        log_priors: task -> (labels,), added to the logits: logit adjustment (Menon et al. 2021, arXiv:2007.07314).
        class_weights: task -> (labels,): a mail counts by the weight of its label.
        focal: down-weights mails that are easy already: (1 - p)^2 of the cross entropy (Lin et al. 2017,
            arXiv:1708.02002).
        weighting: `equal`: mean over the tasks; `uncertainty`: see `combine`; `alone`: the sum, for tasks that share
            no weights, so that each has the gradient of a model of its own.
        r_drop: weight of `disagreement` (R-Drop, Liang et al. 2021, arXiv:2106.14448); 0 leaves it out.
    """

    label_smoothing: float = 0.0
    log_priors: Mapping[str, Tensor] = field(default_factory=dict)
    class_weights: Mapping[str, Tensor] = field(default_factory=dict)
    focal: bool = False
    weighting: Literal["equal", "uncertainty", "alone"] = "equal"
    r_drop: float = 0.0

    @classmethod
    def of(cls, config: TrainingConfig, labels: Mapping[str, int], targets: Labels, device: str = "cpu") -> Objective:
        """As configured; `labels` maps tasks to numbers of labels, `targets` (mails, tasks) are those of training."""
        log_priors, class_weights = {}, {}
        for position, (task, number) in enumerate(labels.items()):
            known = targets[:, position][targets[:, position] != UNLABELLED]
            counts = torch.tensor(np.bincount(known, minlength=number) + 1.0, dtype=torch.float32, device=device)
            if config.imbalance == "logit_adjustment":
                log_priors[task] = torch.log(counts / counts.sum())
            elif config.imbalance == "class_weights":
                class_weights[task] = counts.sum() / (number * counts)
        focal = config.imbalance == "focal"
        weighting = "alone" if config.tasks == "separate" else config.task_weighting
        return cls(config.label_smoothing, log_priors, class_weights, focal, weighting, config.r_drop)

    def __call__(self, logits: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """One number; `logits` maps a task to (mails, labels), `targets` is (mails, tasks) in the same order.

        Logits may hold all mails several times over, under other dropout: then their losses are averaged. With
        `r_drop` each of these times holds all mails twice, once a reading.
        """
        mails = len(targets)
        copies = len(next(iter(logits.values()))) // max(mails, 1)
        targets = targets.repeat(copies, 1) if copies > 1 else targets
        losses = self.task_losses(logits, targets)
        if self.r_drop:
            apart = [disagreement(values.float(), mails) for values in logits.values()]
            losses = losses + self.r_drop * torch.stack(apart)
        return self.combine(losses, (targets != UNLABELLED).any(dim=0))

    def task_losses(self, logits: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """Mean loss of the labelled mails a task, shape (tasks,); 0 where no mail is labelled."""
        return torch.stack(
            [self._task_loss(task, values.float(), targets[:, i]) for i, (task, values) in enumerate(logits.items())]
        )

    def combine(self, losses: Tensor, labelled: Tensor) -> Tensor:
        """One number of the losses a task, shape (tasks,); `labelled` says which tasks have a labelled mail.

        `uncertainty` is Kendall et al. 2018 (arXiv:1705.07115), sum of L / s + log(s) / 2, with each s at its optimum
        2 L instead of a learnt one: what is left is half the sum of log L, so that a task's gradient is divided by
        its own loss.
        """
        if self.weighting == "equal":
            return losses.mean()
        if self.weighting == "alone":
            return losses.sum()
        return torch.where(labelled, torch.log(losses + LOSS_FLOOR), 0.0).sum() / 2

    def _task_loss(self, task: str, logits: Tensor, target: Tensor) -> Tensor:
        if task in self.log_priors:
            logits = logits + self.log_priors[task]
        each = cross_entropy(
            logits, target, ignore_index=UNLABELLED, label_smoothing=self.label_smoothing, reduction="none"
        )
        known = target != UNLABELLED
        weights = known.to(each.dtype)
        if task in self.class_weights:
            weights = weights * self.class_weights[task][target.clamp(min=0)]
        if self.focal:
            right = logits.softmax(dim=1).gather(1, target.clamp(min=0).unsqueeze(1)).squeeze(1)
            return ((1 - right) ** FOCAL_GAMMA * each * weights).sum() / known.sum().clamp(min=1)
        return (each * weights).sum() / weights.sum().clamp(min=1e-9)


def disagreement(logits: Tensor, mails: int) -> Tensor:
    """Mean over the mails of the Kullback-Leibler divergence of two readings, both ways and halved.

    Args:
        logits: shape (samples * 2 * mails, labels): all mails once, then all again, and so on for each further sample
            of dropout. The paper adds up the cross entropies of the two readings, of which we take the mean: its alpha
            is twice the weight here.
    """
    first, second = log_softmax(logits, dim=1).reshape(-1, 2, mails, logits.shape[1]).unbind(1)
    return ((first.exp() - second.exp()) * (first - second)).sum(dim=-1).mean() / 2
