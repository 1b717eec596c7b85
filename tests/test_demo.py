"""The demo: the whole line as one command, with a small model so that it takes seconds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from demo.table import answers_table
from mailtriage.mail import Email
from mailtriage.readers import read_mails
from mailtriage.taxonomy import Taxonomy

ROOT = Path(__file__).parent.parent
MAILS = ROOT / "demo" / "mails"
CONFIG = """
encoder: embedded
encoder_layers: 1
freeze_embeddings: true
max_tokens: 64
epochs: 1
batch_tokens: 2048
head_learning_rate: 2.0e-3
export_tolerance: 0.5
"""


def test_the_demo_runs_the_whole_line_and_leaves_nothing_running(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "demo", "--rows", "300", "--config", config, "--work", tmp_path / "work"]
    environment = os.environ | {"COLUMNS": "160", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}

    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    for part in ("300 synthetic mails", "[6/6] register", "version 1", "the demo plays that person", "8 mails in"):
        assert part in said
    assert len(re.findall(r"│ (?:route|review) +│", said)) == 8
    assert "stopped everything" in said
    assert str(tmp_path) not in _running_commands()


def test_every_demo_mail_reads_and_its_expected_labels_are_valid(taxonomy: Taxonomy) -> None:
    mails = list(read_mails(MAILS))
    expected = yaml.safe_load((MAILS / "expected.yaml").read_text(encoding="utf-8"))

    assert all(isinstance(mail, Email) for mail in mails)
    assert len(mails) == 8
    assert all(taxonomy.is_valid(labels) for labels in expected.values())


def test_the_table_shows_words_cuts_labels_and_decision(taxonomy: Taxonomy, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    mail = Email("1", "AW: Depot", "Wo bleibt mein Übertrag?\n\nVon meinem iPhone gesendet")
    labels = {"line_of_business": "brokerage", "queue": "transfers", "topic": "securities_transfer_in"}
    answer = {"labels": {k: {"label": v, "confidence": 0.97} for k, v in labels.items()}, "decision": "route"}

    Console(width=150).print(answers_table([mail], [answer], taxonomy))

    shown = capsys.readouterr().out
    for part in ("Wo bleibt mein Übertrag?", "client footer", "transfers", "97%", "route"):
        assert part in shown
    assert "iPhone" not in shown


def _running_commands() -> str:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
