"""The words that decided: hide them one by one, and see how far the confidence falls (occlusion).

Zeiler and Fergus 2014 (arXiv:1311.2901), on words. It needs forward passes only, so what is explained is the engine
that serves, whatever its precision.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mailtriage.decoding import Logits
from mailtriage.features import TokenIds, Word, pad
from mailtriage.inference import Engine, Prediction, Triage
from mailtriage.mail import Email

MOST_GROUPS = 64  # hidden at a time in a round; there are two rounds at most
SHOWN_WORDS = 10

Weights = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class WordWeight:
    """A word of the cleaned mail, and by how much the label's confidence falls without it."""

    word: str
    part: str
    weight: float

    def to_record(self) -> dict[str, Any]:
        return {"word": self.word, "part": self.part, "weight": round(self.weight, 4)}


@dataclass(frozen=True, slots=True)
class Explanation:
    """A prediction and, for each task, the words that weighed most on its label, heaviest first."""

    prediction: Prediction
    words: Mapping[str, tuple[WordWeight, ...]]

    def to_record(self) -> dict[str, Any]:
        """The JSON object of the REST route."""
        answer = self.prediction.to_record()
        words = {task: [word.to_record() for word in found] for task, found in self.words.items()}
        kept = ("id", "labels", "decision", "model_version", "taxonomy_version")
        return {name: answer[name] for name in kept} | {"words": words}


# Yields token ids, is sent their logits (task -> (mails, labels)), and returns the explanation.
Explaining = Generator[list[TokenIds], Mapping[str, Logits], Explanation]


def explaining(triage: Triage, mail: Email) -> Explaining:
    """Explain one mail with at most two rounds of forward passes of at most `MOST_GROUPS` + 1 mails each.

    In a mail of more words than that, the first round hides groups of neighbouring words, and the second the words of
    the heaviest groups; words of light groups get no weight of their own.
    """
    prepared = triage.prepare([mail])
    if not prepared.answerable:
        (prediction,) = triage.finish(prepared, {})
        return Explanation(prediction, dict.fromkeys(prediction.decoded.labels, ()))
    ids, words = triage.tokenizer.encode_words(*triage.segments(mail, prepared.cleaned[0]), mail.custodian_bank)
    groups = [group for group in np.array_split(np.arange(len(words)), min(len(words), MOST_GROUPS)) if len(group)]
    logits = yield [ids, *(_hide(ids, words, group, triage.tokenizer.mask_id) for group in groups)]
    (prediction,) = triage.finish(prepared, {task: values[:1] for task, values in logits.items()})
    weights = _falls(triage, logits)
    if len(groups) < len(words):
        heaviest = np.argsort(-np.abs(weights).max(axis=1), kind="stable")
        chosen = np.concatenate([groups[group] for group in heaviest])[:MOST_GROUPS]
        groups = [np.asarray([word]) for word in sorted(chosen.tolist())]
        logits = yield [ids, *(_hide(ids, words, group, triage.tokenizer.mask_id) for group in groups)]
        weights = _falls(triage, logits)
    singles = [words[group[0]] for group in groups]
    return Explanation(prediction, _heaviest(singles, weights, list(prediction.decoded.labels)))


def explain(triage: Triage, engine: Engine, mail: Email) -> Explanation:
    """All rounds on this machine."""
    rounds = explaining(triage, mail)
    try:
        wanted = next(rounds)
        while True:
            wanted = rounds.send(engine.forward(*pad(wanted)))
    except StopIteration as done:
        explanation: Explanation = done.value
        return explanation


def _hide(ids: TokenIds, words: Sequence[Word], group: Any, mask_id: int) -> TokenIds:
    """The mail with these words' tokens masked: all other tokens keep their places."""
    hidden = ids.copy()
    for word in group:
        hidden[words[word].tokens] = mask_id
    return hidden


def _falls(triage: Triage, logits: Mapping[str, Logits]) -> Weights:
    """Row 0 is the whole mail. How far its labels' confidence falls in each other row: (groups, tasks)."""
    probabilities = triage.decoder.probabilities(logits)
    (chosen,) = triage.decoder.best_combinations({task: values[:1] for task, values in probabilities.items()})
    columns = [
        values[0, label] - values[1:, label]
        for values, label in zip(probabilities.values(), chosen.tolist(), strict=True)
    ]
    return np.stack(columns, axis=1)


def _heaviest(words: Sequence[Word], weights: Weights, tasks: Sequence[str]) -> dict[str, tuple[WordWeight, ...]]:
    found = {}
    for column, task in enumerate(tasks):
        order = np.argsort(-np.abs(weights[:, column]), kind="stable")[:SHOWN_WORDS]
        found[task] = tuple(WordWeight(words[i].text, words[i].part, float(weights[i, column])) for i in order)
    return found
