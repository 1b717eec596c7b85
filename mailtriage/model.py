"""One encoder, one linear head a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from mailtriage.metrics import UNLABELLED


class MultiTaskConfig(PretrainedConfig):  # type: ignore[misc]
    """Encoder settings, and the number of labels of each task."""

    model_type = "mailtriage"

    def __init__(
        self,
        encoder: Mapping[str, Any] | None = None,
        labels: Mapping[str, int] | None = None,
        pooling: str = "mean",
        head_dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        self.encoder = dict(encoder or {})
        self.labels = dict(labels or {})
        self.pooling = pooling
        self.head_dropout = head_dropout
        super().__init__(**kwargs)


class MultiTaskClassifier(PreTrainedModel):  # type: ignore[misc]
    """Logits of several tasks from one forward pass of one encoder."""

    config_class = MultiTaskConfig
    base_model_prefix = "encoder"

    def __init__(self, config: MultiTaskConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.encoder = encoder if encoder is not None else AutoModel.from_config(_encoder_config(config.encoder))
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # ours replaces it, and weights without a gradient stop distributed training
        self.dropout = nn.Dropout(config.head_dropout)
        width = self.encoder.config.hidden_size
        self.heads = nn.ModuleDict({task: nn.Linear(width, count) for task, count in config.labels.items()})
        self.post_init()

    @classmethod
    def from_encoder(
        cls, encoder: PreTrainedModel, labels: Mapping[str, int], pooling: str, dropout: float
    ) -> MultiTaskClassifier:
        """Put fresh heads (task -> number of labels) on a pre-trained encoder."""
        config = MultiTaskConfig(encoder.config.to_dict(), labels, pooling, dropout)
        model = cls(config, encoder)
        for head in model.heads.values():
            assert isinstance(head, nn.Linear)
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        return model

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `from_encoder` initialises the heads, and a saved model brings all its weights."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Both arguments have shape (mails, tokens); each task's logits have shape (mails, labels)."""
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mail = self.dropout(_pool(tokens, attention_mask, self.config.pooling))
        return {task: head(mail) for task, head in self.heads.items()}


def _pool(tokens: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One vector a mail: (mails, tokens, width) -> (mails, width)."""
    if pooling == "cls":
        return tokens[:, 0]
    mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


def multi_task_loss(
    logits: Mapping[str, Tensor],
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    log_priors: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Mean over the tasks of the mean cross entropy of the labelled mails.

    Args:
        logits: task -> (mails, labels).
        targets: (mails, tasks) in the order of `logits`; `UNLABELLED` is masked.
        label_smoothing: share of the target spread over all labels.
        log_priors: task -> (labels,), added to the logits: logit adjustment (Menon et al. 2021, arXiv:2007.07314).
    """
    losses = []
    for position, (task, values) in enumerate(logits.items()):
        target = targets[:, position]
        adjusted = values.float() if log_priors is None else values.float() + log_priors[task]
        total = nn.functional.cross_entropy(
            adjusted, target, ignore_index=UNLABELLED, label_smoothing=label_smoothing, reduction="sum"
        )
        losses.append(total / (target != UNLABELLED).sum().clamp(min=1))
    return torch.stack(losses).mean()


def _encoder_config(settings: Mapping[str, Any]) -> PretrainedConfig:
    values = dict(settings)
    return AutoConfig.for_model(values.pop("model_type"), **values)
