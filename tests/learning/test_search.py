"""Search with Ray Tune: spaces are checked before anything runs, and a killed search goes on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest
import yaml

from mailtriage import tracking, training
from mailtriage.bundle import Bundle
from mailtriage.config import TrainingConfig, load_config
from mailtriage.errors import ConfigError, EncoderError
from mailtriage.examples import Example
from mailtriage.mail import Email
from mailtriage.search import Range, _reason, parse_space, search
from mailtriage.taxonomy import Taxonomy

ROOT = Path(__file__).parent.parent.parent


def _parse(text: str) -> dict[str, Range]:
    return parse_space(text, TrainingConfig(), "space.yaml")


def test_a_space_maps_settings_to_ranges() -> None:
    space = _parse("{learning_rate: {loguniform: [1.0e-5, 1.0e-3]}, pooling: {choice: [mean, cls]}}")

    assert space == {
        "learning_rate": Range("loguniform", (1e-5, 1e-3)),
        "pooling": Range("choice", ("mean", "cls")),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{learning_rat: {uniform: [0, 1]}}", "unknown setting 'learning_rat'.*learning_rate"),
        ("{dropout: {unifrom: [0, 0.5]}}", "unknown range 'unifrom'.*uniform"),
        ("{dropout: {uniform: [0, 1.5]}}", "'dropout'.*less than 1"),
        ("{pooling: {choice: [mean, max]}}", "'pooling'"),
        ("{learning_rate: {loguniform: [0, 1]}}", "two rising numbers"),
        ("{dropout: {uniform: [0.5, 0.1]}}", "two rising numbers"),
        ("{dropout: 0.1}", "one of choice, uniform, loguniform"),
        ("{workers: {choice: [1, 2]}}", "cannot search over 'workers'"),
        ("[]", "map settings to ranges"),
    ],
)
def test_a_space_that_no_configuration_allows_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _parse(text)


@pytest.mark.timeout(600)
def test_a_killed_search_goes_on_and_trains_the_best(
    tmp_path: Path, tiny_config: TrainingConfig, mails: list[Email]
) -> None:
    config, space, data, output = (tmp_path / name for name in ("config.yaml", "space.yaml", "mails.jsonl", "found"))
    settings = tiny_config.model_copy(update={"epochs": 3, "worker_cpus": os.cpu_count() or 1})
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")), encoding="utf-8")
    space.write_text("{learning_rate: {choice: [1.0e-8, 5.0e-3]}, dropout: {uniform: [0.0, 0.2]}}", encoding="utf-8")
    data.write_text("".join(json.dumps(mail.to_record()) + "\n" for mail in mails[:160]), encoding="utf-8")
    command = [sys.executable, "-m", "mailtriage.cli", "tune", str(config), str(space)]
    command += ["--data", str(data), "--output", str(output), "--trials", "4"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db", "PYTHONPATH": str(ROOT)}

    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    before = _kill_after_an_epoch(first)
    second = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert second.returncode == 0, second.stderr
    assert Bundle.open(output / "bundle").digest
    rows = list(csv.DictReader((output / "trials.csv").open(encoding="utf-8")))
    assert len({row["trial"] for row in rows}) == 4
    assert before in {row["trial"] for row in rows}  # the trial that ran when the search was killed
    scores = [float(row["macro_f1"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert float(rows[0]["learning_rate"]) == 5e-3
    assert load_config(output / "best.yaml").learning_rate == 5e-3
    _assert_each_trial_is_in_mlflow(f"sqlite:///{tmp_path}/mlflow.db", rows)


def test_a_failed_trial_is_counted_and_its_reason_kept(
    tmp_path: Path,
    tiny_config: TrainingConfig,
    taxonomy: Taxonomy,
    examples: list[Example],
    mlflow_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(training, "train", lambda config, *_, **__: config)
    config = tiny_config.model_copy(update={"epochs": 1, "worker_cpus": os.cpu_count() or 1, "seed": 1})
    space = {"encoder": Range("choice", (config.encoder, str(tmp_path / "nowhere")))}
    said: list[str] = []

    best = search(
        config,
        space,
        taxonomy,
        examples[:100],
        examples[100:160],
        tmp_path / "found",
        trials=3,
        mlflow_folder=mlflow_folder,
        say=said.append,
    )

    failed = [line for line in said if " failed: EncoderError: cannot load the encoder" in line]
    (last,) = [line for line in said if line.startswith("best of")]
    assert 1 <= len(failed) <= 2
    assert last.startswith(f"best of {3 - len(failed)} trials, {len(failed)} more failed: ")
    assert cast(TrainingConfig, best).encoder == config.encoder
    table = list(csv.DictReader((tmp_path / "found" / "trials.csv").open(encoding="utf-8")))
    assert len(table) == 3 - len(failed)
    client = tracking.client(mlflow_folder)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], "tags.part = 'trial'")
    found = {run.data.tags["trial"]: run for run in runs if run.data.params["seed"] == "1"}
    assert len(found) == 3
    good = {row["trial"] for row in table}
    for trial, run in found.items():
        assert run.info.status == ("FINISHED" if trial in good else "FAILED")
        reason = run.data.tags.get("failure", "")
        assert reason.startswith("EncoderError: cannot load the encoder") if trial not in good else not reason
        assert run.data.params["encoder"] == (config.encoder if trial in good else str(tmp_path / "nowhere"))


def test_a_reason_holds_no_text_that_may_be_a_mails() -> None:
    mail = "Bitte überweisen Sie mein Guthaben."

    assert _reason(EncoderError("cannot load it")) == "EncoderError: cannot load it"
    assert _reason(ValueError(mail)) == "ValueError"


def _kill_after_an_epoch(process: subprocess.Popen[str]) -> str:
    """Kill the search, as a machine that goes down would, once a trial has said something; returns that trial."""
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if line.startswith("trial "):
                time.sleep(1)  # Ray Tune writes the state of a search down after results
                return line.split()[1]
        raise AssertionError("".join(said))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def _assert_each_trial_is_in_mlflow(uri: str, rows: list[dict[str, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        client = tracking.client()
        (experiment,) = client.search_experiments(filter_string=f"name = '{tracking.EXPERIMENT}'")
        runs = {run.data.tags["part"]: [] for run in client.search_runs([experiment.experiment_id])}
        for run in client.search_runs([experiment.experiment_id]):
            runs[run.data.tags["part"]].append(run)
        (whole,) = runs["whole"]
        assert {run.data.tags["mlflow.parentRunId"] for run in runs["trial"]} == {whole.info.run_id}
        assert {run.info.status for run in runs["trial"]} == {"FINISHED"}
        logged = {
            run.data.tags["trial"]: [m.value for m in client.get_metric_history(run.info.run_id, "training/macro_f1")]
            for run in runs["trial"]
        }
        assert {row["trial"]: int(row["epochs"]) for row in rows} == {name: len(v) for name, v in logged.items()}
        assert {row["trial"]: float(row["macro_f1"]) for row in rows} == {name: max(v) for name, v in logged.items()}
