"""The same loop on Ray Train: one worker gives the plain loop's result, two share the mails."""

from contextlib import suppress
from pathlib import Path

import psutil
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


def test_a_worker_killed_in_the_middle_of_an_epoch_goes_on_with_the_same_losses(
    config: TrainingConfig, taxonomy: Taxonomy, examples: list[Example], tmp_path: Path
) -> None:
    longer = config.model_copy(update={"epochs": 4})
    whole = _train(longer, taxonomy, examples, tmp_path / "whole", workers=0)
    killed: list[int] = []

    def kill_after_the_first_epoch(line: str) -> None:
        if not killed and line.startswith("epoch 1/4") and "validation" in line:
            killed.extend(_kill_workers())

    result = train(
        longer.model_copy(update={"workers": 1}),
        taxonomy,
        examples[:160],
        examples[160:220],
        tmp_path / "killed",
        say=kill_after_the_first_epoch,
    )

    assert killed
    assert [e.epoch for e in result.history] == [1, 2, 3, 4]
    assert [e.loss for e in result.history] == pytest.approx([e.loss for e in whole.history], rel=1e-3)


def _kill_workers() -> list[int]:
    """Kill the training workers that this process started, as a lost node would, and return their ids."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.name().startswith("ray::") and any("TrainWorker" in part for part in process.cmdline()):
                process.kill()
                found.append(process.pid)
    return found
