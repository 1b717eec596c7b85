"""Inference in three phases: prepare (clean, tokenise), forward (an engine), finish (decode, decide)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mailtriage.batching import length_batches
from mailtriage.bundle import Bundle
from mailtriage.cleaning import Cleaned, clean
from mailtriage.decoding import Decoded, Decoder, Logits
from mailtriage.features import MailTokenizer, TokenIds, model_text, pad
from mailtriage.mail import Email

IdArray = np.ndarray[Any, np.dtype[np.int64]]

TOKEN_BUDGET = 1024  # of one pass, padding included; a CPU takes about the same for 512 to 2048, and longer for 4096


class Engine(Protocol):
    """Runs the model: token ids in, logits out. `mailtriage.engines` has those that there are."""

    @property
    def name(self) -> str:
        """Library, precision or file, and device, for logs and metadata."""
        ...

    def forward(self, input_ids: IdArray, attention_mask: IdArray) -> dict[str, Logits]:
        """Both arguments have shape (mails, tokens); each task's logits have shape (mails, labels)."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """Mails ready for an engine. `input_ids` has one unpadded array a mail; it is empty where no text is left."""

    ids: tuple[str, ...]
    cleaned: tuple[Cleaned, ...]
    input_ids: tuple[TokenIds, ...]

    @property
    def answerable(self) -> list[int]:
        """Positions of the mails that the engine must see."""
        return [position for position, ids in enumerate(self.input_ids) if len(ids)]

    @property
    def tokens(self) -> list[TokenIds]:
        """Token ids of the answerable mails."""
        return [self.input_ids[position] for position in self.answerable]

    def tensors(self) -> tuple[IdArray, IdArray]:
        """`input_ids` and `attention_mask` of the answerable mails, padded."""
        return pad(self.tokens)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one mail, with the versions that it came from."""

    id: str
    decoded: Decoded
    model_version: str
    taxonomy_version: str

    def to_record(self) -> dict[str, Any]:
        """The JSON object of the REST route."""
        return {
            "id": self.id,
            "labels": {task: score.to_record() for task, score in self.decoded.labels.items()},
            "decision": self.decoded.decision,
            "alternatives": {
                task: [score.to_record() for score in scores] for task, scores in self.decoded.alternatives.items()
            },
            "model_version": self.model_version,
            "taxonomy_version": self.taxonomy_version,
        }


@dataclass(frozen=True)
class Triage:
    """The phases around the engine. It needs no model weights, so the serving transformer uses it alone."""

    tokenizer: MailTokenizer
    decoder: Decoder
    model_version: str
    taxonomy_version: str

    @classmethod
    def open(cls, path: str | Path) -> Triage:
        """Open the bundle at `path`; raises what `Bundle.open` raises."""
        return cls.from_bundle(Bundle.open(path))

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Triage:
        return cls(bundle.tokenizer, bundle.decoder, bundle.model_version, bundle.taxonomy.version)

    def prepare(self, mails: Sequence[Email]) -> Prepared:
        """Phase one: clean and tokenise."""
        return self.tokenise(mails, self.clean(mails))

    def clean(self, mails: Sequence[Email]) -> list[Cleaned]:
        """The first half of phase one."""
        return [clean(mail.body, mail.subject) for mail in mails]

    @staticmethod
    def segments(mail: Email, cleaned: Cleaned) -> tuple[str, str]:
        """The two texts that the encoder reads."""
        return model_text(cleaned.subject, cleaned.text, mail.custodian_bank)

    def tokenise(self, mails: Sequence[Email], cleaned: Sequence[Cleaned]) -> Prepared:
        """The second half of phase one."""
        segments = [self.segments(mail, text) for mail, text in zip(mails, cleaned, strict=True)]
        encoded = self.tokenizer.encode(segments)
        empty = np.empty(0, dtype=np.int32)
        input_ids = tuple(
            ids if text.subject.strip() or text.text.strip() else empty
            for ids, text in zip(encoded, cleaned, strict=True)
        )
        return Prepared(tuple(mail.id for mail in mails), tuple(cleaned), input_ids)

    def finish(self, prepared: Prepared, logits: Mapping[str, Logits]) -> list[Prediction]:
        """Phase three: `logits` (task -> array of shape (answerable mails, labels)) become one answer a mail."""
        answers = [self.decoder.undecidable()] * len(prepared.ids)
        if prepared.answerable:
            for position, decoded in zip(prepared.answerable, self.decoder.decode(logits), strict=True):
                answers[position] = decoded
        return [
            Prediction(mail_id, decoded, self.model_version, self.taxonomy_version)
            for mail_id, decoded in zip(prepared.ids, answers, strict=True)
        ]


def predict(
    triage: Triage, engine: Engine, mails: Sequence[Email], token_budget: int = TOKEN_BUDGET
) -> list[Prediction]:
    """All three phases on this machine; mails of similar length share a forward pass."""
    prepared = triage.prepare(mails)
    return triage.finish(prepared, forward_in_batches(engine.forward, prepared.tokens, token_budget)) if mails else []


def forward_in_batches(
    forward: Callable[[IdArray, IdArray], dict[str, Logits]],
    tokens: Sequence[TokenIds],
    token_budget: int = TOKEN_BUDGET,
) -> dict[str, Logits]:
    """Phase two over any number of mails, as `Engine.forward` does it for a few; rows in the order of `tokens`.

    Shortest first, so that little is padded: each pass takes as many mails as fit in the budget, padding included, and
    at least one.
    """
    batches = list(length_batches([len(ids) for ids in tokens], token_budget))
    parts: dict[str, list[Logits]] = {}
    for batch in batches:
        for task, values in forward(*pad([tokens[position] for position in batch])).items():
            parts.setdefault(task, []).append(values)
    return {task: np.concatenate(values)[np.argsort(np.concatenate(batches))] for task, values in parts.items()}
