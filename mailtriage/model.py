"""One encoder, one linear head a task, lexical heads beside it; or an encoder a task: single-task models in one."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from mailtriage.lexical import LexicalHeads
from mailtriage.packing import Packed, pool, read_tokens

_SHARED = "shared"


class MultiTaskConfig(PretrainedConfig):  # type: ignore[misc]
    """Encoder settings, the labels of each task, and the hashed pairs of the lexical heads (0: there are none)."""

    model_type = "mailtriage"

    def __init__(
        self,
        encoder: Mapping[str, Any] | None = None,
        labels: Mapping[str, int] | None = None,
        pooling: str = "mean",
        head_dropout: float = 0.1,
        separate: bool = False,
        dropout_samples: int = 1,
        lexical_buckets: int = 0,
        **kwargs: Any,
    ) -> None:
        self.encoder = dict(encoder or {})
        self.labels = dict(labels or {})
        self.pooling = pooling
        self.head_dropout = head_dropout
        self.separate = separate
        self.dropout_samples = dropout_samples
        self.lexical_buckets = lexical_buckets
        super().__init__(**kwargs)


class MultiTaskClassifier(PreTrainedModel):  # type: ignore[misc]
    """Logits of several tasks from one forward pass of one encoder, or of one encoder a task (`config.separate`)."""

    config_class = MultiTaskConfig
    base_model_prefix = "encoder"

    def __init__(self, config: MultiTaskConfig, encoders: Mapping[str, PreTrainedModel] | None = None) -> None:
        super().__init__(config)
        names = list(config.labels) if config.separate else [_SHARED]
        made = encoders or {name: AutoModel.from_config(_encoder_config(config.encoder)) for name in names}
        for encoder in made.values():
            if getattr(encoder, "pooler", None) is not None:
                encoder.pooler = None  # ours replaces it, and weights without a gradient stop distributed training
        if config.separate:
            self.encoders = nn.ModuleDict(made)
        else:
            self.encoder = made[_SHARED]
        self.dropout = nn.Dropout(config.head_dropout)
        settings = next(iter(made.values())).config
        width = settings.hidden_size
        self.heads = nn.ModuleDict({task: nn.Linear(width, count) for task, count in config.labels.items()})
        self.lexical: LexicalHeads | None = None
        if config.lexical_buckets:
            self.lexical = LexicalHeads(settings.vocab_size, config.labels, config.lexical_buckets)
        self.post_init()

    @classmethod
    def from_encoder(
        cls, encoder: PreTrainedModel, labels: Mapping[str, int], pooling: str, dropout: float, separate: bool = False
    ) -> MultiTaskClassifier:
        """Put fresh heads (task -> number of labels) on a pre-trained encoder, or on a copy of it a task."""
        encoders = {task: deepcopy(encoder) for task in labels} if separate else {_SHARED: encoder}
        return cls._with_fresh_heads(encoders, labels, pooling, dropout, separate)

    @classmethod
    def like(cls, old: MultiTaskClassifier, labels: Mapping[str, int], dropout: float) -> MultiTaskClassifier:
        """The encoder of `old` under fresh heads; where it has an encoder a task, a new task copies the first one."""
        separate, pooling = bool(old.config.separate), str(old.config.pooling)
        if not separate:
            return cls._with_fresh_heads({_SHARED: old.encoder}, labels, pooling, dropout, separate)
        first = next(iter(old.encoders.values()))
        encoders = {task: old.encoders[task] if task in old.encoders else deepcopy(first) for task in labels}
        return cls._with_fresh_heads(encoders, labels, pooling, dropout, separate)

    @classmethod
    def _with_fresh_heads(
        cls, encoders: Mapping[str, Any], labels: Mapping[str, int], pooling: str, dropout: float, separate: bool
    ) -> MultiTaskClassifier:
        settings = next(iter(encoders.values())).config.to_dict()
        model = cls(MultiTaskConfig(settings, labels, pooling, dropout, separate), encoders)
        for task in labels:
            nn.init.normal_(model.head(task).weight, std=0.02)
            nn.init.zeros_(model.head(task).bias)
        return model

    def attach(self, lexical: LexicalHeads) -> None:
        """Let these heads answer too, from now on; they are no part of the training loop."""
        self.lexical = lexical
        self.config.lexical_buckets = lexical.buckets

    def head(self, task: str) -> nn.Linear:
        head = self.heads[task]
        assert isinstance(head, nn.Linear)
        return head

    @property
    def encoder_of_tasks(self) -> dict[str, Any]:
        """Each task's encoder: the same for all, or one a task."""
        return {task: self.encoders[task] if self.config.separate else self.encoder for task in self.heads}

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `from_encoder` initialises the heads, and a saved model brings all its weights."""

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, packed: Packed | None = None
    ) -> dict[str, Tensor]:
        """Each task's logits, of shape (mails, labels).

        While training with `dropout_samples` above 1 (multi-sample dropout, Inoue 2019, arXiv:1905.09788), logits have
        shape (samples * mails, labels): all mails under one mask of dropout, then all under the next.

        Args:
            input_ids, attention_mask: padded mails, both of shape (mails, tokens).
            packed: mails without padding in their place, inside of `packing.packing`; not with lexical heads.
        """
        logits = self._encoder_logits(input_ids, attention_mask, packed)
        if self.lexical is None:
            return logits
        assert input_ids is not None
        assert attention_mask is not None
        return self.lexical.pool(logits, self.lexical(input_ids, attention_mask))

    def _encoder_logits(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, packed: Packed | None
    ) -> dict[str, Tensor]:
        if self.config.separate:
            return {
                task: self._answer(task, self._read(self.encoders[task], input_ids, attention_mask, packed))
                for task in self.heads
            }
        mail = self._read(self.encoder, input_ids, attention_mask, packed)
        return {task: self._answer(task, mail) for task in self.heads}

    def _read(
        self, encoder: nn.Module, input_ids: Tensor | None, attention_mask: Tensor | None, packed: Packed | None
    ) -> Tensor:
        if packed is not None:
            mail = pool(read_tokens(encoder, packed), packed, self.config.pooling)
        else:
            assert attention_mask is not None
            tokens = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mail = _pool(tokens, attention_mask, self.config.pooling)
        if self.training and self.config.dropout_samples > 1:
            mail = mail.repeat(self.config.dropout_samples, 1)
        dropped: Tensor = self.dropout(mail)
        return dropped

    def _answer(self, task: str, mail: Tensor) -> Tensor:
        logits: Tensor = self.heads[task](mail)
        return logits


def _pool(tokens: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One vector a mail: (mails, tokens, width) -> (mails, width)."""
    if pooling == "cls":
        return tokens[:, 0]
    mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)


def _encoder_config(settings: Mapping[str, Any]) -> PretrainedConfig:
    values = dict(settings)
    return AutoConfig.for_model(values.pop("model_type"), **values)
