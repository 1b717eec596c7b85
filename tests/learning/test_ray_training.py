"""The same loop on Ray Train: one worker gives the plain loop's result, two share the mails."""

import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mailtriage import ray_training
from mailtriage.config import TrainingConfig
from mailtriage.examples import Example
from mailtriage.fitting import Epoch, Tokenised, prepare
from mailtriage.model import MultiTaskClassifier
from mailtriage.taxonomy import Taxonomy
from mailtriage.training import TrainingResult, fit_and_calibrate, train


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
    _, mails, _ = prepare(config, taxonomy, examples[:160], examples[160:220], tmp_path / "prepared")
    for epoch in result.history:  # both workers together read each mail once
        assert epoch.tokens_per_second * epoch.seconds == pytest.approx(sum(mails.lengths), rel=1e-9)


def test_a_refit_is_no_resumed_first_run_where_both_keep_the_last_epoch(
    config: TrainingConfig,
    taxonomy: Taxonomy,
    examples: list[Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: dict[str, int] = {}  # fingerprint -> mails; Ray goes on with the run of that name

    def as_on_ray(
        model: MultiTaskClassifier, train: Tokenised, *_: object, fingerprint: str, **__: object
    ) -> list[Epoch]:
        runs.setdefault(fingerprint, len(train.input_ids))
        return []

    monkeypatch.setattr(ray_training, "fit_on_ray", as_on_ray)
    settings = {"workers": 1, "storage": str(tmp_path / "shared"), "keep": "last", "patience": None, "refit": True}

    fit_and_calibrate(
        config.model_copy(update=settings), taxonomy, examples[:160], examples[160:220], tmp_path / "run", "taxonomy"
    )

    assert list(runs.values()) == [160, 220]


def test_a_worker_killed_in_the_middle_of_an_epoch_goes_on_with_the_same_losses(
    config: TrainingConfig, taxonomy: Taxonomy, examples: list[Example], tmp_path: Path
) -> None:
    longer = config.model_copy(update={"epochs": 4})
    whole = _train(longer, taxonomy, examples, tmp_path / "whole", workers=0)
    killed: list[int] = []
    trained: Counter[int] = Counter()

    def kill_after_three_epochs(line: str) -> None:
        epoch = re.match(r"epoch (\d)/4  loss .* validation", line)
        if epoch is not None:
            trained[int(epoch[1])] += 1
            if not killed and trained[3]:
                killed.extend(_kill_workers())

    result = train(
        longer.model_copy(update={"workers": 1}),
        taxonomy,
        examples[:160],
        examples[160:220],
        tmp_path / "killed",
        say=kill_after_three_epochs,
    )

    assert killed
    assert [e.epoch for e in result.history] == [1, 2, 3, 4]
    assert [e.loss for e in result.history] == pytest.approx([e.loss for e in whole.history], rel=1e-3)
    # Ray takes in an epoch's checkpoint before the next one's, and so the first one's before a worker begins the third.
    assert trained[1] == 1
    assert trained.total() <= 4 + 2


def _kill_workers() -> list[int]:
    """Kill the training workers that this process started, as a lost node would, and return their ids."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.name().startswith("ray::") and any("TrainWorker" in part for part in process.cmdline()):
                process.kill()
                found.append(process.pid)
    return found
