"""Runs in MLflow, on SQLite and a folder as on one machine."""

import json
import math

import pytest

from mailtriage import tracking
from mailtriage.errors import DataError

METRICS = {
    "queue": {
        "macro_f1": 0.81,
        "support": 120,
        "intervals": {"macro_f1": [0.7, 0.9]},
        "calibration": {"ece_after": 0.02, "ece_by_chance": [0.01, 0.03]},
        "routing": {"precision": None, "coverage": 0.0, "interval": []},
        "labels": {"R&D": {"f1": 0.5, "intervals": {"f1": [0.4, 0.6]}}},
    },
    "overall": {"mean_macro_f1": 0.81, "mails_seen": None},
    "slices": {
        "language": {
            "de": {"mails": 100, "queue": {"macro_f1": 0.7}},
            "en": {"mails": 20, "queue": {"macro_f1": 0.1}},
        },
        "custodian_bank": {"../Bank A/B/": {"mails": 50}, "..": {"mails": 50}, "x" * 300: {"mails": 50}},
    },
    "split": {"groups": {"ids": {"all": 120, "crossing": 0}}, "parts": {"test": {"mails": 120, "first": "2026-01-01"}}},
    "model": {"name": "mailtriage", "version": "7"},
}


@pytest.fixture
def run(mlflow_folder, tmp_path):
    (tmp_path / "report.html").write_text("<html></html>")
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    history = [{"epoch": 1, "loss": 2.0, "macro_f1": 0.4}, {"epoch": 2, "loss": 1.0, "macro_f1": 0.8}]
    params = {"encoder": "embedded", "split": {"seed": 7}, "data_sha256": "ab" * 32}
    return tracking.record(
        params=params, metrics=METRICS, history=history, files=tmp_path, experiment="tests", folder=mlflow_folder
    )


def test_run_holds_settings_metrics_and_files(run, mlflow_folder):
    mlflow = tracking.client(mlflow_folder)
    written = mlflow.get_run(run)
    assert written.info.status == "FINISHED"
    assert written.data.params.items() >= {"encoder": "embedded", "split.seed": "7"}.items()
    assert "mailtriage_version" in written.data.params
    assert written.data.metrics["queue/macro_f1"] == 0.81
    assert written.data.metrics["overall/mean_macro_f1"] == 0.81
    assert {file.path for file in mlflow.list_artifacts(run, "evaluation")} == {
        "evaluation/report.html",
        "evaluation/metrics.json",
    }


def test_history_becomes_a_curve(run, mlflow_folder):
    points = tracking.client(mlflow_folder).get_metric_history(run, "training/loss")
    assert [(point.step, point.value) for point in points] == [(1, 2.0), (2, 1.0)]


def test_metric_names_are_those_that_mlflow_takes_and_what_is_no_number_is_left_out():
    flat = tracking.flatten_metrics(METRICS)
    assert flat["queue/labels/R_D/f1"] == 0.5
    assert not any(name.startswith("model/") for name in flat)
    assert "queue/routing/precision" not in flat
    assert all(math.isfinite(value) for value in flat.values())


def test_intervals_groups_and_the_split_are_metrics_too_but_for_small_groups_and_single_labels():
    flat = tracking.flatten_metrics(METRICS)
    assert (flat["queue/intervals/macro_f1/low"], flat["queue/intervals/macro_f1/high"]) == (0.7, 0.9)
    assert flat["queue/calibration/ece_by_chance/high"] == 0.03
    assert flat["slices/language/de/queue/macro_f1"] == 0.7
    assert flat["split/groups/ids/crossing"] == 0
    assert flat["split/parts/test/mails"] == 120
    assert not any(name.startswith(("slices/language/en", "queue/labels/R_D/intervals")) for name in flat)


def test_a_run_that_cannot_be_written_whole_is_marked_as_failed(mlflow_folder, tmp_path):
    (tmp_path / "report.html").symlink_to(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        tracking.record(params={}, metrics={}, files=tmp_path, experiment="broken", folder=mlflow_folder)
    mlflow = tracking.client(mlflow_folder)
    experiment = mlflow.get_experiment_by_name("broken")
    (run,) = mlflow.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


def test_a_folder_that_is_not_there_is_an_error(mlflow_folder, tmp_path):
    with pytest.raises(DataError, match="missing"):
        tracking.record(params={}, metrics={}, files=tmp_path / "missing", folder=mlflow_folder)


def test_a_named_server_wins_over_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    assert tracking.tracking_uri(tmp_path) == "http://mlflow.example:5000"


def test_data_digest_depends_on_content_and_order(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("a")
    other.write_text("b")
    assert tracking.data_digest([one, other]) != tracking.data_digest([other, one])
    first = tracking.data_digest([one])
    one.write_text("c")
    assert tracking.data_digest([one]) != first
