"""How well the model sorts labelled mails, against TF-IDF with a linear SVM and against three single-task models.

    python benchmarks/quality.py --data FOLDER --output work/quality [--config configs/demo.yaml]
        [--grid benchmarks/quality.yaml] [--set learning_rate=1e-4,imbalance=focal]
        [--systems svm,lexical,together,separate] [--seeds 1,2,3] [--processes N] [--minutes M] [--limit N] [--test]

FOLDER holds `train.jsonl.gz`, `validation.jsonl.gz` and `test.jsonl.gz`: rows with `id`, `subject`, `body` and one key
a task. The tasks and labels are those of the rows; every combination is valid.

First choose by validation: each system is fitted on the training mails and measured on the validation mails, with the
settings of `--config`, each entry of `--grid` and `--set` laid over one another. Then, with `--test`, the settings that
validated best (or, without a grid, those given) are fitted, calibrated and given thresholds as for a bundle, a model a
seed, and measured on the test mails. A stopped fit goes on after its last whole epoch. Each run leaves
`validation.json` or `test.json` in a folder of OUTPUT, with figures, date, hardware and settings. What is there is not
repeated. After `--minutes` no further run starts.
`lexical` is what the model's lexical heads answer without an encoder; they read its tokens, so they have its settings.
The table at the end shows mean and spread (largest less smallest) over the seeds that are there. `results/quality`
beside this script is such an OUTPUT: the runs behind the figures of `docs/experiments.md`, as far as they were kept.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import yaml

from mailtriage import baselines
from mailtriage.config import TrainingConfig
from mailtriage.decoding import Decoder
from mailtriage.evaluation import answer, measure, true_labels
from mailtriage.examples import Example
from mailtriage.features import MailTokenizer
from mailtriage.fitting import forward_pass
from mailtriage.inference import IdArray, Triage
from mailtriage.lexical import LexicalHeads
from mailtriage.mail import Email
from mailtriage.metrics import Labels, macro_f1
from mailtriage.taxonomy import Taxonomy
from mailtriage.thresholds import compile_thresholds
from mailtriage.training import Calibrated, answer_together, calibrate, fit_and_calibrate, lexical_heads

NOT_TASKS = {"id", "language", "subject", "body", "custodian_bank", "received_at"}
PARTS = ("train", "validation", "test")  # the labels of all three make the taxonomy
Settings = dict[str, Any]


class Run(NamedTuple):
    """One system with one seed, fitted and measured."""

    data: Path
    limit: int | None
    output: Path
    system: str
    seed: int
    settings: Settings
    measured: str
    not_after: float  # on the clock of `time.time`

    @property
    def key(self) -> dict[str, Any]:
        mails = {name: len(_parts(self.data, self.limit)[1][name]) for name in ("train", "validation")}
        settings = {} if self.system == "svm" else self.settings
        return {"system": self.system, "seed": self.seed, "settings": settings, "mails": mails}

    @property
    def file(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()[:12]
        return self.output / f"{self.system}-{self.seed}-{digest}" / f"{self.measured}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--grid", type=Path, help="a YAML list of settings to try")
    parser.add_argument("--set", default="", help="settings that replace those of the configuration: key=value,...")
    parser.add_argument("--systems", default="svm,lexical,together,separate")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--processes", type=int, default=1, help="runs side by side")
    parser.add_argument("--minutes", type=float, default=24 * 60.0)
    parser.add_argument("--limit", type=int, help="use only so many mails of each part, to try the script")
    parser.add_argument("--test", action="store_true", help="measure on the test mails")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    base = yaml.safe_load(arguments.config.read_text(encoding="utf-8")) | _settings(arguments.set)
    base.pop("taxonomy", None)  # the mails' own labels make it
    grid = yaml.safe_load(arguments.grid.read_text(encoding="utf-8")) if arguments.grid else [{}]
    measured = "test" if arguments.test else "validation"
    mails = {name: len(_parts(arguments.data, arguments.limit)[1][name]) for name in ("train", "validation")}
    runs = []
    for system in arguments.systems.split(","):
        tried = [dict(base) | entry for entry in grid] if system != "svm" else [{}]
        if arguments.test and len(tried) > 1:
            tried = [_best(arguments.output, system, mails)]
        runs += [
            Run(arguments.data, arguments.limit, arguments.output, system, seed, settings, measured,
                time.time() + 60 * arguments.minutes)
            for settings, seed in product(tried, map(int, arguments.seeds.split(",")))
        ]  # fmt: skip
    missing = [run for run in runs if not run.file.is_file()]
    for done, line in enumerate(_in_processes(missing, arguments.processes), start=1):
        print(f"{done}/{len(missing)} {line}", flush=True)
    _show(arguments.output, measured, mails)


def _in_processes(runs: Sequence[Run], processes: int) -> Iterable[str]:
    if processes == 1:
        yield from map(_measure, runs)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _share_cores, (processes,)) as pool:
        yield from pool.map(_measure, runs)


def _share_cores(processes: int) -> None:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _best(folder: Path, system: str, mails: Mapping[str, int]) -> Settings:
    """The settings whose mean over the tasks was best on the validation mails, in the mean over seeds."""
    found = [group for group in _groups(folder, "validation", mails) if group[0]["system"] == system]
    if not found:
        raise SystemExit(f"expected validated runs of '{system}' in {folder}: choose first, without --test")
    best = max(found, key=lambda group: float(np.mean([run["mean_macro_f1"] for run in group])))
    return dict(best[0]["settings"])


def _measure(run: Run) -> str:
    """Fit, measure and write down; returns a line to print."""
    name = run.file.parent.name
    if time.time() > run.not_after:
        return f"{name}: not started, the time is up"
    taxonomy_text, parts = _parts(run.data, run.limit)
    run.file.parent.mkdir(parents=True, exist_ok=True)
    if run.system == "svm":
        result = _svm(Taxonomy.parse(taxonomy_text), parts, run)
    elif run.system == "lexical":
        config = TrainingConfig.build(run.settings | {"seed": run.seed, "encoder_layers": 1})
        result = _lexical(config, Taxonomy.parse(taxonomy_text), parts, run)
    else:
        config = TrainingConfig.build(run.settings | {"seed": run.seed, "tasks": run.system})
        result = (_validate if run.measured == "validation" else _test)(config, taxonomy_text, parts, run)
    run.file.write_text(json.dumps(run.key | _circumstances() | result, indent=2) + "\n", encoding="utf-8")
    return f"{name}: {result['mean_macro_f1']:.3f} after {result['training_seconds']:.0f} s"


def _svm(taxonomy: Taxonomy, parts: Mapping[str, list[Example]], run: Run) -> dict[str, Any]:
    started = time.monotonic()
    fitted = parts["train"] + (parts["validation"] if run.measured == "test" else [])
    predicted = baselines.tfidf_svm(fitted, true_labels(taxonomy, fitted), parts[run.measured], run.seed)
    true = true_labels(taxonomy, parts[run.measured])
    scores = {t.id: macro_f1(len(t.labels), true[t.id], predicted[t.id]) for t in taxonomy.tasks}
    return _entry(run.measured, scores, time.monotonic() - started)


def _lexical(
    config: TrainingConfig, taxonomy: Taxonomy, parts: Mapping[str, list[Example]], run: Run
) -> dict[str, Any]:
    """Calibrated as a whole model is, and fitted anew if the settings want that."""
    from mailtriage.fitting import prepare

    with tempfile.TemporaryDirectory() as folder:
        model, fitted, validation = prepare(config, taxonomy, parts["train"], parts["validation"], Path(folder))
        started = time.monotonic()
        heads = lexical_heads(model, fitted, config)
        calibrated = calibrate(heads.answers(validation.input_ids), validation.targets, taxonomy, config)
        seconds = time.monotonic() - started
        if run.measured == "validation":
            return _entry("validation", calibrated.scores, seconds)
        if config.refit:
            together = parts["train"] + parts["validation"]
            model, fitted, _ = prepare(config, taxonomy, together, parts["test"], Path(folder))
            started = time.monotonic()
            heads = lexical_heads(model, fitted, config)
            seconds += time.monotonic() - started
        forward = _forward_pass(heads)
        return _figures(config, taxonomy, calibrated, validation.targets, Path(folder), forward, parts["test"], seconds)


def _forward_pass(heads: LexicalHeads) -> Callable[[IdArray, IdArray], dict[str, Any]]:
    import torch

    def forward(input_ids: IdArray, attention_mask: IdArray) -> dict[str, Any]:
        with torch.inference_mode():
            found = heads(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        return {task: logits.numpy() for task, logits in found.items()}

    return forward


def _validate(
    config: TrainingConfig, taxonomy_text: str, parts: Mapping[str, list[Example]], run: Run
) -> dict[str, Any]:
    """Fit alone: what is measured is the model before it is exported."""
    from mailtriage.fitting import Worker, fit, prepare, task_macro_f1

    taxonomy, worker = Taxonomy.parse(taxonomy_text), Worker.alone()
    with tempfile.TemporaryDirectory() as folder:
        model, fitted, validation = prepare(config, taxonomy, parts["train"], parts["validation"], Path(folder))
        started = time.monotonic()
        history = fit(model, fitted, validation, config, worker=worker)
        seconds = time.monotonic() - started
        logits, _scales, alone = answer_together(model, fitted, validation, config)
    epochs = [round(epoch.macro_f1, 4) for epoch in history]
    found = _entry("validation", task_macro_f1(logits, validation.targets), seconds) | {
        "mean_macro_f1_by_epoch": epochs
    }
    return found | {"alone": {part: round(float(np.mean(list(f1.values()))), 4) for part, f1 in alone.items()}}


def _test(config: TrainingConfig, taxonomy_text: str, parts: Mapping[str, list[Example]], run: Run) -> dict[str, Any]:
    """Fit, calibrate and compile thresholds as for a bundle, and ask the model before its export.

    What an export costs is measured at each training (`parity` in a bundle), and is no matter of the settings.
    """
    taxonomy, unfinished = Taxonomy.parse(taxonomy_text), run.file.parent / "unfinished"

    def say(line: str) -> None:
        print(f"{run.file.parent.name}: {line}", flush=True)

    started = time.monotonic()
    fitted = fit_and_calibrate(config, taxonomy, parts["train"], parts["validation"], unfinished, taxonomy_text, say)
    seconds = time.monotonic() - started
    forward, targets = forward_pass(fitted.model), fitted.validation.targets
    found = _figures(config, taxonomy, fitted.calibrated, targets, unfinished, forward, parts["test"], seconds)
    shutil.rmtree(unfinished)
    return found | {
        "validation": fitted.calibrated.scores,
        "validation_alone": fitted.calibrated.parts,
        "scales": fitted.calibrated.scales,
    }


def _figures(
    config: TrainingConfig,
    taxonomy: Taxonomy,
    calibrated: Calibrated,
    targets: Labels,
    folder: Path,
    forward: Any,
    mails: Sequence[Example],
    seconds: float,
) -> dict[str, Any]:
    """Ask for the test mails what a bundle would answer. `targets` are the labels of the validation mails.

    `routing` is what the settings promise; `routing_by_task` promises the same precision for each label alone.
    """
    decoder = Decoder(
        taxonomy, calibrated.temperatures, calibrated.routing["thresholds"], by=calibrated.routing.get("by")
    )
    triage = Triage(MailTokenizer(folder / "tokenizer.json", config.max_tokens), decoder, "", taxonomy.version)
    answers = answer(triage, SimpleNamespace(forward=forward), taxonomy, mails)
    metrics = measure(taxonomy, decoder, answers, mails)
    alone = config.model_copy(update={"route_promise": "task", "route_by": None})
    compiled = compile_thresholds(alone, Decoder(taxonomy, calibrated.temperatures), calibrated.logits, targets)
    by_task = measure(taxonomy, Decoder(taxonomy, calibrated.temperatures, compiled["thresholds"]), answers, mails)
    return _entry("test", {task: metrics[task]["macro_f1"] for task in taxonomy.task_ids}, seconds) | {
        "ece": {task: metrics[task]["calibration"]["ece_after"] for task in taxonomy.task_ids},
        "ece_by_chance": {task: metrics[task]["calibration"]["ece_by_chance"] for task in taxonomy.task_ids},
        "routing": {key: metrics["overall"]["routing"][key] for key in ("coverage", "precision", "interval")},
        "expected_coverage": calibrated.routing.get("expected_coverage"),
        "routing_by_task": {task: by_task[task]["routing"] for task in taxonomy.task_ids},
    }


def _entry(measured: str, scores: Mapping[str, float], seconds: float) -> dict[str, Any]:
    return {
        "measured": measured,
        "macro_f1": {task: round(float(score), 4) for task, score in scores.items()},
        "mean_macro_f1": round(float(np.mean(list(scores.values()))), 4),
        "training_seconds": round(seconds, 1),
    }


def _groups(folder: Path, measured: str, mails: Mapping[str, int]) -> list[list[dict[str, Any]]]:
    """The kept runs, those that differ by the seed alone together."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob(f"*/{measured}.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        if result["mails"] == mails:
            groups.setdefault(json.dumps([result["system"], result["settings"]], sort_keys=True), []).append(result)
    return list(groups.values())


def _show(folder: Path, measured: str, mails: Mapping[str, int]) -> None:
    print(f"macro-F1 on the {measured} mails: mean over seeds (spread)")
    groups = _groups(folder, measured, mails)
    common = _common([group[0]["settings"] for group in groups if group[0]["settings"]])
    print(f"common settings: {common}")
    for found in sorted(groups, key=lambda group: -np.mean([run["mean_macro_f1"] for run in group])):
        tasks = {task: [result["macro_f1"][task] for result in found] for task in found[0]["macro_f1"]}
        tasks["mean"] = [result["mean_macro_f1"] for result in found]
        figures = "  ".join(f"{t} {np.mean(v):.3f} ({max(v) - min(v):.3f})" for t, v in tasks.items())
        worst = max((max(result["ece"].values()) for result in found if "ece" in result), default=None)
        ece = f"  largest ECE {worst:.3f}" if worst is not None else ""
        seconds = np.mean([result["training_seconds"] for result in found])
        own = {key: value for key, value in found[0]["settings"].items() if key not in common}
        print(f"{found[0]['system']:9} {len(found)} seed(s)  {figures}{ece}  {seconds:.0f} s  {own or ''}")


def _common(settings: Sequence[Settings]) -> Settings:
    """What all have alike."""
    first, *rest = settings or [{}]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in rest)}


@lru_cache(maxsize=1)
def _parts(data: Path, limit: int | None) -> tuple[str, dict[str, list[Example]]]:
    """The taxonomy as YAML, and the cleaned mails of each part."""
    rows = {name: list(_rows(data / f"{name}.jsonl.gz", limit)) for name in PARTS}
    taxonomy = _taxonomy([row for part in rows.values() for row in part])
    tasks = Taxonomy.parse(taxonomy).task_ids
    return taxonomy, {name: _examples(part, tasks) for name, part in rows.items()}


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


def _circumstances() -> dict[str, Any]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }


if __name__ == "__main__":
    main()
