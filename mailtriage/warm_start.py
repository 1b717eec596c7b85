"""A new model that starts from an old bundle: its encoder, its vocabulary, and of its heads what still holds.

    kept, renamed   the row moves
    merged          the mean of the old rows; the bias rises by log(number), as the merged label has all their mails
    split           a copy a part; the bias falls by log(number of parts), as the parts share the mails
    new             a fresh row

so that probabilities of untouched labels stay about what they were: exactly after a split, and after a merger
as far as the merged rows are alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mailtriage.bundle import Bundle
from mailtriage.config import TrainingConfig
from mailtriage.errors import ConfigError
from mailtriage.migration import Migration
from mailtriage.model import MultiTaskClassifier
from mailtriage.taxonomy import Taxonomy

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEPT = ("encoder", "encoder_layers", "pooling", "tasks")  # settings that must be those of the old bundle


@contextmanager
def start_bundle(name: str) -> Iterator[Bundle]:
    """The bundle that `warm_start` names: a folder, or a version of the registry such as `mailtriage@champion`.

    Raises:
        ConfigError: it is neither.
        BundleError, RegistryError: it must not be used, or is not there.
    """
    if Path(name).exists():
        yield Bundle.open(name)
        return
    if "@" not in name and not name.rpartition("/")[2].isdigit():
        raise ConfigError(
            f"expected 'warm_start' to be a bundle or NAME@ALIAS or NAME/VERSION, found nothing at {name}"
        )
    from mailtriage import registry

    with TemporaryDirectory() as folder:
        yield registry.fetch(name, Path(folder) / "bundle")


def warm_model(bundle: Bundle, config: TrainingConfig, taxonomy: Taxonomy) -> tuple[MultiTaskClassifier, Tokenizer]:
    """The old bundle's model with heads for the new taxonomy, and its tokenizer.

    Raises:
        ConfigError: the configuration asks for another encoder than the bundle has.
        TaxonomyError: the history of the new taxonomy does not fit the old one.
    """
    from tokenizers import Tokenizer

    trained = TrainingConfig.build(bundle.read_json("training.json"), f"training.json of {bundle.path}")
    for key in KEPT:
        wanted, found = getattr(config, key), getattr(trained, key)
        if wanted != found:
            raise ConfigError(f"warm start keeps '{key}': expected {found} as in {bundle.path}, found {wanted}")
    old = MultiTaskClassifier.from_pretrained(bundle.path / "model")
    labels = {task.id: len(task.labels) for task in taxonomy.tasks}
    model = MultiTaskClassifier.like(old, labels, config.dropout)
    migration = Migration.between(bundle.taxonomy, taxonomy)
    for task in taxonomy.task_ids:
        if task in migration.targets:
            fill_head(model.head(task), old.head(task), migration, task)
    return model, Tokenizer.from_file(str(bundle.path / "tokenizer.json"))


@torch.no_grad()
def fill_head(new: nn.Linear, old: nn.Linear, migration: Migration, task: str) -> None:
    """Write what the old rows know into the new head; rows of new labels stay as they are."""
    before = migration.old.task(task)
    for row, (_label, sources) in enumerate(migration.sources(task).items()):
        if sources:
            rows = [before.index(source) for source in sources]
            shares = torch.tensor([math.log(len(migration.targets[task][source])) for source in sources])
            new.weight[row] = old.weight[rows].mean(dim=0)
            new.bias[row] = _mass(old.bias[rows], shares)


def _mass(biases: Tensor, shares: Tensor) -> Tensor:
    """The bias that gives a label the mass of its sources; a source that was split gives each part its share."""
    return (biases - shares).logsumexp(dim=0)
