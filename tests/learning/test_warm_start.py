"""A taxonomy edit: what the old model knows stays, and a quarter of the steps teaches the rest."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mailtriage.bundle import Bundle
from mailtriage.config import TrainingConfig
from mailtriage.errors import ConfigError
from mailtriage.examples import Example
from mailtriage.fitting import fit, predict_logits, prepare
from mailtriage.metrics import Scores, confusion_matrix
from mailtriage.migration import Migration
from mailtriage.model import MultiTaskClassifier
from mailtriage.taxonomy import Taxonomy
from mailtriage.training import train
from mailtriage.warm_start import fill_head

EPOCHS = 8
SEEDS = (6, 7, 8)
NOISE = 0.025  # of a mean over three seeds; one seed's difference spreads by 0.008, and machines round differently
LABELS = ("share_order", "coin_order", "fees", "deposit", "withdrawal", "tax", "login", "dividend", "plan", "opening")
OLD = """
version: 1
tasks: {topic: {labels: {order: , fees: , deposit: , withdrawal: , tax: , login: , dividend: , plan: , opening: }}}
"""
NEW = """
version: 2
tasks: {topic: {labels: {share_order: , coin_order: , costs: , money: , tax: , login: , dividend: , plan: , opening: }}}
history:
  - {version: 2, task: topic, change: renamed, from: fees, to: costs}
  - {version: 2, task: topic, change: merged, from: [deposit, withdrawal], to: money}
  - {version: 2, task: topic, change: split, from: order, to: [share_order, coin_order]}
"""
BEFORE = {"share_order": "order", "coin_order": "order"}  # what people called it; the others have the names of LABELS
AFTER = {"fees": "costs", "deposit": "money", "withdrawal": "money"}


@pytest.fixture(scope="module")
def old_taxonomy() -> Taxonomy:
    return Taxonomy.parse(OLD)


@pytest.fixture(scope="module")
def new_taxonomy() -> Taxonomy:
    return Taxonomy.parse(NEW)


def _corpus(encoder: Path, seed: int) -> list[Example]:
    """Mails of 12 words: three from the words of its label, the others from those that all use."""
    vocabulary = json.loads((encoder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isalpha() and len(word) > 3)
    random = np.random.default_rng(seed)
    own = {label: random.choice(words, 40, replace=False) for label in LABELS}
    texts = [
        (label, " ".join([*random.choice(own[label], 3), *random.choice(words, 9)]))
        for label in random.choice(LABELS, 1600)
    ]
    return [Example(str(n), "", text, labels={"topic": label}) for n, (label, text) in enumerate(texts)]


def _named(corpus: list[Example], names: dict[str, str]) -> list[Example]:
    return [
        replace(mail, labels={"topic": names.get(str(mail.labels["topic"]), mail.labels["topic"])}) for mail in corpus
    ]


def _old_bundle(path: Path, config: TrainingConfig, taxonomy: Taxonomy, corpus: list[Example]) -> Path:
    train(config, taxonomy, corpus[:1000], corpus[1000:], path, taxonomy_text=OLD)
    return path


def test_an_edit_costs_no_quality_and_needs_a_quarter_of_the_steps(
    tmp_path: Path, tiny_config: TrainingConfig, old_taxonomy: Taxonomy, new_taxonomy: Taxonomy
) -> None:
    kept = Migration.between(old_taxonomy, new_taxonomy).untouched("topic")
    assert kept == ["costs", "tax", "login", "dividend", "plan", "opening"]
    before, from_scratch, hurried, edited, everything = np.mean(
        [_scores_of_an_edit(tmp_path, tiny_config, old_taxonomy, new_taxonomy, kept, seed) for seed in SEEDS], axis=0
    )

    assert before > 0.7
    assert hurried < from_scratch - 0.05
    assert edited >= before - NOISE
    assert edited >= from_scratch - NOISE
    assert everything >= from_scratch - 2 * NOISE  # also on what was merged, split and is new


def _scores_of_an_edit(
    folder: Path, config: TrainingConfig, old: Taxonomy, new: Taxonomy, kept: list[str], seed: int
) -> list[float]:
    """Mean F1 of the untouched labels: of the old model, one from scratch, one in a quarter of the steps, and one from
    the old model in a quarter of the steps; last, of all labels of that one."""
    corpus = _corpus(Path(config.encoder), seed)
    cold = config.model_copy(update={"epochs": EPOCHS, "seed": seed})
    quarter = cold.model_copy(update={"epochs": EPOCHS // 4})
    bundle = _old_bundle(folder / f"old-{seed}", cold, old, _named(corpus, BEFORE))
    gentle = {"warm_start": str(bundle), "learning_rate": config.learning_rate / 2}
    warm = quarter.model_copy(update=gentle)

    before = _topic_f1(warm, old, _named(corpus, BEFORE), folder, learn=False)
    before["costs"] = before["fees"]
    scratch, hurried, edited = (_topic_f1(c, new, _named(corpus, AFTER), folder) for c in (cold, quarter, warm))
    return [*(_mean(scores, kept) for scores in (before, scratch, hurried, edited)), _mean(edited, list(edited))]


def _mean(scores: dict[str, float], labels: list[str]) -> float:
    return float(np.mean([scores[label] for label in labels]))


def _topic_f1(
    config: TrainingConfig, taxonomy: Taxonomy, examples: list[Example], folder: Path, *, learn: bool = True
) -> dict[str, float]:
    """F1 of each topic on the mails after the first 1,000, of a model that was trained on those."""
    model, part, rest = prepare(config, taxonomy, examples[:1000], examples[1000:], folder)
    if learn:
        fit(model, part, rest, config)
    labels = taxonomy.task("topic").label_ids
    found = predict_logits(model, rest.input_ids, config)["topic"].argmax(axis=1)
    scores = Scores.of(confusion_matrix(len(labels), rest.targets[:, -1], found))
    return dict(zip(labels, scores.label_f1.tolist(), strict=True))


@pytest.fixture
def heads(old_taxonomy: Taxonomy, new_taxonomy: Taxonomy) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(1)
    old, new = (nn.Linear(8, len(taxonomy.task("topic").labels)) for taxonomy in (old_taxonomy, new_taxonomy))
    fill_head(new, old, Migration.between(old_taxonomy, new_taxonomy), "topic")
    return old, new


def test_rows_move_are_averaged_and_are_copied(heads, old_taxonomy: Taxonomy, new_taxonomy: Taxonomy) -> None:
    old, new = heads
    before, after = old_taxonomy.task("topic").index, new_taxonomy.task("topic").index

    assert torch.equal(new.weight[after("plan")], old.weight[before("plan")])
    assert torch.equal(new.weight[after("costs")], old.weight[before("fees")])
    merged = (old.weight[before("deposit")] + old.weight[before("withdrawal")]) / 2
    assert torch.allclose(new.weight[after("money")], merged)
    for part in ("share_order", "coin_order"):
        assert torch.equal(new.weight[after(part)], old.weight[before("order")])


def test_parts_of_a_split_share_the_probability_of_the_whole(old_taxonomy: Taxonomy) -> None:
    split_only = Taxonomy.parse(
        OLD.replace("order: ,", "share_order: , coin_order: ,")
        + "history: [{version: 2, task: topic, change: split, from: order, to: [share_order, coin_order]}]"
    )
    torch.manual_seed(1)
    old, new = (nn.Linear(8, len(taxonomy.task("topic").labels)) for taxonomy in (old_taxonomy, split_only))
    fill_head(new, old, Migration.between(old_taxonomy, split_only), "topic")
    mail = torch.randn(5, 8)

    before, after = old(mail).softmax(dim=1), new(mail).softmax(dim=1)

    number = old_taxonomy.task("topic").index
    whole, other = number("order"), number("plan")
    assert torch.allclose(after[:, [whole, whole + 1]].sum(dim=1), before[:, whole], atol=1e-6)
    assert torch.allclose(after[:, split_only.task("topic").index("plan")], before[:, other], atol=1e-6)


def test_a_new_label_starts_fresh_among_rows_that_stay(
    tmp_path: Path, tiny_config: TrainingConfig, examples: list[Example], bundle_path: Path
) -> None:
    bundle = Bundle.open(bundle_path)
    text = (bundle_path / "taxonomy.yaml").read_text(encoding="utf-8")
    first = bundle.taxonomy.task("queue").label_ids[0]
    text = re.sub(rf"^( +){first}:", r"\1parking:\n\g<0>", text, count=1, flags=re.MULTILINE)
    edited = Taxonomy.parse(re.sub(r"^( +)security: (.*)$", r"\g<0>\n\1parking: \2", text, flags=re.MULTILINE))
    assert edited.task("queue").label_ids == ("parking", *bundle.taxonomy.task("queue").label_ids)
    config = tiny_config.model_copy(update={"warm_start": str(bundle_path)})

    model, _, _ = prepare(config, edited, examples[:50], examples[50:60], tmp_path)

    torch.manual_seed(config.seed)
    old = MultiTaskClassifier.from_pretrained(bundle_path / "model")
    fresh = MultiTaskClassifier.like(old, {task.id: len(task.labels) for task in edited.tasks}, config.dropout)
    queue = model.head("queue")
    assert torch.equal(queue.weight[0], fresh.head("queue").weight[0])
    assert queue.bias[0] == 0.0
    assert torch.equal(queue.weight[1:], old.head("queue").weight)
    assert torch.allclose(queue.bias[1:], old.head("queue").bias, atol=1e-6)


def test_another_encoder_cannot_start_warm(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, examples: list[Example], bundle_path: Path
) -> None:
    config = tiny_config.model_copy(update={"warm_start": str(bundle_path), "encoder_layers": 1})

    with pytest.raises(ConfigError, match="keeps 'encoder_layers': expected None"):
        prepare(config, taxonomy, examples[:50], examples[50:60], tmp_path)


def test_a_start_that_is_nowhere_is_an_error(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, examples: list[Example]
) -> None:
    config = tiny_config.model_copy(update={"warm_start": "no/such/bundle"})

    with pytest.raises(ConfigError, match="found nothing at no/such/bundle"):
        prepare(config, taxonomy, examples[:50], examples[50:60], tmp_path)
