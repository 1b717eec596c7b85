"""The pipeline on this machine: every step in a process of its own, as `python -m pipelines run NAME --local` does."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mailtriage.bundle import Bundle
from pipelines.local_runs import StepDisplay, descendants

ROOT = Path(__file__).parent.parent.parent


def pipelines(*arguments, folder):
    """Run the command in `folder`, so that its `work/` is there."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def config(tiny_config, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tiny_config.model_copy(update={"epochs": 1}).model_dump(mode="json")))
    return str(file)


@pytest.fixture
def data(mails, tmp_path):
    file = tmp_path / "mails.jsonl"
    file.write_text("".join(json.dumps(mail.to_record()) + "\n" for mail in mails[:200]))
    return str(file)


@pytest.mark.timeout(900)
def test_trains_evaluates_and_registers(config, data, tmp_path):
    ended = pipelines("run", "training", "--local", "--data", data, "--config", config, folder=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    shown = ended.stdout
    for number, step in enumerate(("ingest", "clean", "split", "train", "evaluate", "register"), start=1):
        assert f"[{number}/6] {step}" in shown
    assert "version 1 of 'mailtriage'" in shown
    assert "executor_input" not in shown
    bundle = next(Path(line.split()[1]) for line in shown.splitlines() if line.startswith("bundle"))
    report = next(Path(line.split()[1]) for line in shown.splitlines() if line.startswith("report"))
    assert Bundle.open(bundle).taxonomy.version
    assert "data:image/png" in report.read_text()
    assert (tmp_path / "work" / "mlflow" / "mlflow.db").exists()


@pytest.mark.timeout(600)
def test_a_step_that_fails_shows_its_traceback_and_ends_the_command(config, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"id": "1"}\n')
    ended = pipelines("run", "training", "--local", "--data", str(empty), "--config", config, folder=tmp_path)
    assert ended.returncode == 1
    assert "Traceback (most recent call last)" in ended.stdout
    assert "DataError: expected mails in" in ended.stdout
    assert "step 'ingest' of pipeline 'training' failed" in ended.stderr
    assert "[2/6]" not in ended.stdout


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.timeout(600)
def test_a_run_that_is_terminated_leaves_no_step_behind(config, data, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipelines", "run", "training", "--local", "--data", data, "--config", config]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout.readline() == "[1/6] ingest\n"
            steps = eventually(lambda: descendants(running.pid))
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 128 + signal.SIGTERM
            assert eventually(lambda: not any(Path(f"/proc/{step}").exists() for step in steps))
        finally:
            running.kill()


def eventually(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return result


@pytest.mark.parametrize("where", [[], ["--local", "--endpoint", "http://127.0.0.1:1"]])
def test_says_where_to_run(where, tmp_path):
    ended = pipelines("run", "training", *where, folder=tmp_path)
    assert ended.returncode == 1
    assert "--local, or --endpoint URL" in ended.stderr


def test_an_unknown_pipeline_is_one_line(tmp_path):
    ended = pipelines("run", "trainig", "--local", folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.strip() == "error: there is no pipeline 'trainig', did you mean 'training'?"


def shown_of(*lines):
    console, log = io.StringIO(), io.StringIO()
    display = StepDisplay(console, log, steps=6)
    for line in lines:
        display.write(line[:5])
        display.write(line[5:] + "\n")
    return console.getvalue(), log.getvalue(), display


def test_display_shows_what_a_step_says_and_hides_the_machinery():
    console, log, display = shown_of(
        "14:00:00.000 - INFO - Executing task \x1b[96m'train'\x1b[0m",
        "    [KFP Executor 2026-11-24 INFO]: Got executor_input:",
        "    {",
        '        "inputs": {',
        "        }",
        "    }",
        "    epoch 1/3  loss 2.1",
        "    [KFP Executor 2026-11-24 INFO]: Wrote executor output file",
    )
    assert console == "[1/6] train\n      epoch 1/3  loss 2.1\n"
    assert "Wrote executor output" in log
    assert display.running == "train"


def test_display_says_how_long_a_step_took():
    console, _, display = shown_of(
        "INFO - Executing task 'clean'", "INFO - Task 'clean' finished with status \x1b[92mSUCCESS\x1b[0m"
    )
    assert "done in 0.0 s" in console
    assert display.running is None
