"""How well the model sorts labelled mails, against TF-IDF with a linear SVM and against three single-task models.

    python benchmarks/quality.py --data FOLDER --output work/quality [--config configs/demo.yaml]
        [--seeds 1,2,3] [--systems svm,together,separate] [--set learning_rate=1e-4,imbalance=focal]
        [--limit N] [--test]

FOLDER holds `train.jsonl.gz`, `validation.jsonl.gz` and `test.jsonl.gz`: rows with `id`, `subject`, `body` and one key
a task. The tasks and labels are those of the rows; every combination is valid.

Choose by validation: each system is fitted on the training mails and measured on the validation mails; try settings
with `--set`. Only with `--test` it is measured on the test mails, once, after that choice: a model that is there is not
trained again. Each run is kept in a folder of OUTPUT: the bundle, and `validation.json` and `test.json` with figures,
date, hardware and settings. What is there is not repeated, and a stopped training goes on after its last whole epoch.
The table at the end shows mean and spread (largest less smallest) over the seeds that are there.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mailtriage import baselines
from mailtriage.config import TrainingConfig
from mailtriage.evaluation import evaluate, true_labels
from mailtriage.examples import Example
from mailtriage.mail import Email
from mailtriage.metrics import macro_f1
from mailtriage.taxonomy import Taxonomy
from mailtriage.training import train

NOT_TASKS = {"id", "language", "subject", "body", "custodian_bank", "received_at"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--systems", default="svm,together,separate")
    parser.add_argument("--set", default="", help="settings that replace those of the configuration: key=value,...")
    parser.add_argument("--limit", type=int, help="use only so many mails of each part, to try the script")
    parser.add_argument("--test", action="store_true", help="measure on the test mails")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    settings = yaml.safe_load(arguments.config.read_text(encoding="utf-8")) | _settings(arguments.set)
    rows = {
        name: list(_rows(arguments.data / f"{name}.jsonl.gz", arguments.limit))
        for name in ("train", "validation", "test")  # the labels of all three make the taxonomy
    }
    taxonomy_text = _taxonomy([row for part in rows.values() for row in part])
    taxonomy = Taxonomy.parse(taxonomy_text)
    parts = {name: _examples(part, taxonomy.task_ids) for name, part in rows.items()}
    measured = "test" if arguments.test else "validation"
    for system in arguments.systems.split(","):
        for seed in map(int, arguments.seeds.split(",")):
            mails = {name: len(parts[name]) for name in ("train", "validation")}
            key = {"system": system, "seed": seed, "settings": {} if system == "svm" else settings, "mails": mails}
            folder = arguments.output / _digest(key)
            file = folder / f"{measured}.json"
            if not file.is_file():
                folder.mkdir(exist_ok=True)
                result = _svm(taxonomy, parts, measured, seed)
                if system != "svm":
                    config = TrainingConfig.build(dict(settings) | {"seed": seed, "tasks": system})
                    result = _model(config, taxonomy_text, parts, measured, folder)
                file.write_text(json.dumps(key | _circumstances() | result, indent=2) + "\n", encoding="utf-8")
    _show(arguments.output, measured, {name: len(parts[name]) for name in ("train", "validation")})


def _svm(taxonomy: Taxonomy, parts: Mapping[str, list[Example]], measured: str, seed: int) -> dict[str, Any]:
    started = time.monotonic()
    fitted = parts["train"] + (parts["validation"] if measured == "test" else [])
    predicted = baselines.tfidf_svm(fitted, true_labels(taxonomy, fitted), parts[measured], seed)
    true = true_labels(taxonomy, parts[measured])
    scores = {t.id: macro_f1(len(t.labels), true[t.id], predicted[t.id]) for t in taxonomy.tasks}
    return _entry(measured, scores, time.monotonic() - started)


def _model(
    config: TrainingConfig, taxonomy_text: str, parts: Mapping[str, list[Example]], measured: str, folder: Path
) -> dict[str, Any]:
    """Train the bundle of this folder, if it is not there, and measure it."""
    taxonomy, bundle, timing = Taxonomy.parse(taxonomy_text), folder / "bundle", folder / "training.json"
    started = time.monotonic()
    if not bundle.exists():
        train(config, taxonomy, parts["train"], parts["validation"], bundle, _say, taxonomy_text)
        timing.write_text(json.dumps({"seconds": time.monotonic() - started}), encoding="utf-8")
    metrics = evaluate(bundle, parts[measured], folder / measured)
    asked = time.monotonic()
    evaluate(bundle, parts[measured], folder / measured)
    serving = time.monotonic() - asked
    seconds = json.loads(timing.read_text(encoding="utf-8"))["seconds"]
    entry = _entry(measured, {task: metrics[task]["macro_f1"] for task in taxonomy.task_ids}, seconds)
    return entry | {
        "ece": {task: metrics[task]["calibration"]["ece_after"] for task in taxonomy.task_ids},
        "routing": {key: metrics["overall"]["routing"][key] for key in ("coverage", "precision", "interval")},
        "evaluation_seconds": round(serving, 1),
    }


def _entry(measured: str, scores: Mapping[str, float], seconds: float) -> dict[str, Any]:
    return {
        "measured": measured,
        "macro_f1": {task: round(float(score), 4) for task, score in scores.items()},
        "mean_macro_f1": round(float(np.mean(list(scores.values()))), 4),
        "training_seconds": round(seconds, 1),
    }


def _show(folder: Path, measured: str, mails: Mapping[str, int]) -> None:
    results = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob(f"*/{measured}.json"))]
    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if result["mails"] == mails:
            groups.setdefault(json.dumps([result["system"], result["settings"]], sort_keys=True), []).append(result)
    print(f"macro-F1 on the {measured} mails: mean over seeds (spread)")
    for key, found in sorted(groups.items(), key=lambda item: -np.mean([r["mean_macro_f1"] for r in item[1]])):
        system, settings = json.loads(key)
        tasks = {task: [result["macro_f1"][task] for result in found] for task in found[0]["macro_f1"]}
        tasks["mean"] = [result["mean_macro_f1"] for result in found]
        figures = "  ".join(f"{t} {np.mean(v):.3f} ({max(v) - min(v):.3f})" for t, v in tasks.items())
        worst = max((max(result["ece"].values()) for result in found if "ece" in result), default=None)
        print(f"{system:9} {len(found)} seed(s)  {figures}" + (f"  largest ECE {worst:.3f}" if worst else ""))
        if settings:
            print(f"          {settings}")


def _rows(file: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        for number, line in enumerate(stream):
            if limit is not None and number >= limit:
                return
            yield json.loads(line)


def _taxonomy(rows: Sequence[Mapping[str, Any]]) -> str:
    """A taxonomy of the labels that occur, in alphabetical order."""
    tasks = [key for key in rows[0] if key not in NOT_TASKS]
    labels = {task: sorted({row[task] for row in rows if row.get(task)}) for task in tasks}
    content = {task: {"labels": dict.fromkeys(found)} for task, found in labels.items()}
    return yaml.safe_dump({"version": "benchmark", "tasks": content, "valid": "all"}, sort_keys=False)


def _examples(rows: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[Example]:
    return [Example.from_email(Email.from_record(row, tasks)) for row in rows]


def _settings(text: str) -> dict[str, Any]:
    return {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in text.split(",") if pair)}


def _digest(key: Mapping[str, Any]) -> str:
    return f"{key['system']}-{key['seed']}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]}"


def _circumstances() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
