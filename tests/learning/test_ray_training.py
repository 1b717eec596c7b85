"""The same loop on Ray Train: one worker gives the plain loop's result, two share the mails."""

from pathlib import Path

import pytest

from mailtriage.config import TrainingConfig
from mailtriage.examples import Example
from mailtriage.taxonomy import Taxonomy
from mailtriage.training import TrainingResult, train


@pytest.fixture(scope="module")
def config(tiny_config: TrainingConfig) -> TrainingConfig:
    return tiny_config.model_copy(update={"epochs": 2, "dropout": 0.0, "worker_cpus": 0.5})


def _train(
    config: TrainingConfig, taxonomy: Taxonomy, examples: list[Example], output: Path, workers: int
) -> TrainingResult:
    return train(config.model_copy(update={"workers": workers}), taxonomy, examples[:160], examples[160:220], output)


def test_one_worker_gives_the_losses_of_the_plain_loop(
    config: TrainingConfig, taxonomy: Taxonomy, examples: list[Example], tmp_path: Path
) -> None:
    plain = _train(config, taxonomy, examples, tmp_path / "plain", workers=0)
    ray = _train(config, taxonomy, examples, tmp_path / "ray", workers=1)

    assert [e.loss for e in ray.history] == pytest.approx([e.loss for e in plain.history], rel=1e-3)
    assert ray.bundle.digest
    assert not (tmp_path / "ray.unfinished").exists()


def test_two_workers_share_the_mails_and_seal_a_bundle(
    config: TrainingConfig, taxonomy: Taxonomy, examples: list[Example], tmp_path: Path
) -> None:
    result = _train(config, taxonomy, examples, tmp_path / "two", workers=2)

    assert [epoch.epoch for epoch in result.history] == [1, 2]
    assert result.history[1].loss < result.history[0].loss
