"""From cleaned mails to a sealed bundle: fit, calibrate, compile thresholds, export, write down what it is."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mailtriage
from mailtriage.bundle import Bundle, write_manifest
from mailtriage.calibration import fit_temperature
from mailtriage.cleaning_trace import write_traces
from mailtriage.config import TrainingConfig
from mailtriage.decoding import Decoder
from mailtriage.encoders import quiet_transformers
from mailtriage.examples import Example, data_hash
from mailtriage.export import export_onnx
from mailtriage.fitting import (
    Epoch,
    Say,
    Tokenised,
    TrainingState,
    Worker,
    fit,
    predict_logits,
    prepare,
    task_macro_f1,
)
from mailtriage.model import MultiTaskClassifier
from mailtriage.taxonomy import Taxonomy
from mailtriage.thresholds import compile_thresholds


@dataclass(frozen=True)
class TrainingResult:
    """The sealed bundle, and how the run went."""

    bundle: Bundle
    history: list[Epoch]
    validation_macro_f1: float


def train(
    config: TrainingConfig,
    taxonomy: Taxonomy,
    train: Sequence[Example],
    validation: Sequence[Example],
    output: Path,
    say: Say = lambda _line: None,
    taxonomy_text: str | None = None,
) -> TrainingResult:
    """Fine-tune on `train`, choose by `validation`, and write the bundle to `output`, replacing what stood there.

    A stopped run goes on after its last whole epoch when it is called again with the same configuration and mails.

    Args:
        taxonomy_text: the YAML that goes into the bundle; by default the file that `config.taxonomy` names.
        say: gets lines of progress.

    Raises:
        DataError: no mail, or a task without a label.
        EncoderError: the encoder cannot be loaded.
        ExportError: no export answers as the trained model does.
    """
    text = taxonomy_text if taxonomy_text is not None else Path(config.taxonomy).read_text(encoding="utf-8")
    unfinished = output.with_name(output.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    say(f"loading the encoder '{config.encoder}'")
    model, train_set, validation_set = prepare(config, taxonomy, train, validation, unfinished)
    say(f"training on {len(train):,} mails, {sum(train_set.lengths):,} tokens; validating on {len(validation):,}")
    data = data_hash(train, validation)
    fingerprint = hashlib.sha256(
        f"{config.model_dump_json(exclude={'workers', 'taxonomy'})}{text}{data}".encode()
    ).hexdigest()
    fit_anywhere = _fit_on_ray if config.workers else _fit_here
    history = fit_anywhere(model, train_set, validation_set, config, unfinished, fingerprint, say)
    folder = output.with_name(output.name + ".sealing")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(unfinished / "tokenizer.json", folder)
    (folder / "taxonomy.yaml").write_text(text, encoding="utf-8")
    write_traces(folder, (example.trace for example in train if example.trace is not None))
    score = _seal(model.cpu(), validation_set, taxonomy, config, folder, history, data, say)
    shutil.rmtree(output, ignore_errors=True)
    folder.rename(output)
    shutil.rmtree(unfinished)
    say(f"sealed {output}")
    return TrainingResult(Bundle.open(output, verify=False), history, score)


def _fit_here(
    model: MultiTaskClassifier,
    train: Tokenised,
    validation: Tokenised,
    config: TrainingConfig,
    folder: Path,
    fingerprint: str,
    say: Say,
) -> list[Epoch]:
    file = folder / "state.pt"
    resume = TrainingState.load(file, fingerprint)
    if resume is not None:
        say(f"going on after epoch {len(resume.history)} of a stopped run")
    return fit(
        model,
        train,
        validation,
        config,
        worker=Worker(device="cuda" if torch.cuda.is_available() else "cpu"),
        resume=resume,
        after_epoch=lambda state: state.save(file, fingerprint),
        say=say,
    )


def _fit_on_ray(
    model: MultiTaskClassifier,
    train: Tokenised,
    validation: Tokenised,
    config: TrainingConfig,
    folder: Path,
    fingerprint: str,
    say: Say,
) -> list[Epoch]:
    from mailtriage.ray_training import fit_on_ray

    storage = config.storage or str(folder.resolve() / "ray")
    return fit_on_ray(model, train, validation, config, storage=storage, fingerprint=fingerprint, say=say)


def _seal(
    model: MultiTaskClassifier,
    validation: Tokenised,
    taxonomy: Taxonomy,
    config: TrainingConfig,
    folder: Path,
    history: list[Epoch],
    data: str,
    say: Say,
) -> float:
    """Write everything but tokenizer and taxonomy into the folder of the bundle; returns validation macro-F1."""
    logits = predict_logits(model, validation.input_ids, config)
    temperatures = {
        task.id: fit_temperature(logits[task.id], validation.targets[:, position])
        for position, task in enumerate(taxonomy.tasks)
    }
    decoder = Decoder(taxonomy, temperatures)
    routing = compile_thresholds(config, decoder, logits, validation.targets)
    say("calibrated: " + ", ".join(f"{task} at temperature {value:.2f}" for task, value in temperatures.items()))
    with quiet_transformers():
        model.save_pretrained(folder / "model")
    say("exporting to ONNX")
    engines, parity = export_onnx(model, folder, validation.input_ids, validation.targets, config.export_tolerance, say)
    scores = task_macro_f1(logits, validation.targets)
    score = float(np.mean(list(scores.values())))
    _write_json(folder / "calibration.json", {"temperatures": temperatures})
    _write_json(folder / "thresholds.json", routing)
    metrics = {"validation_macro_f1": score, "parity": parity, "history": [asdict(epoch) for epoch in history]}
    metrics |= {"data_sha256": data, "validation_macro_f1_by_task": scores}
    _write_json(folder / "metrics.json", metrics)
    _write_json(folder / "training.json", config.model_dump(mode="json") | {"taxonomy": "taxonomy.yaml"})
    (folder / "MODEL_CARD.md").write_text(_model_card(config, taxonomy, score, scores, routing, data), encoding="utf-8")
    write_manifest(folder, name=config.name, max_tokens=config.max_tokens, engines=engines)
    return score


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _model_card(
    config: TrainingConfig,
    taxonomy: Taxonomy,
    score: float,
    scores: Mapping[str, float],
    routing: dict[str, Any],
    data: str,
) -> str:
    found = ", ".join(f"{task} {score:.3f}" for task, score in scores.items())
    tasks = "\n".join(f"- `{task.id}`: {', '.join(task.label_ids)}" for task in taxonomy.tasks)
    return f"""# {config.name}

Sorts customer e-mail in German and English: {len(taxonomy.tasks)} labels a mail, each with a calibrated confidence.

- Encoder: `{config.encoder}`, {config.encoder_layers or "all"} layers; at most {config.max_tokens} tokens a mail
- Made by mailtriage {mailtriage.__version__}; taxonomy {taxonomy.version}
- Training and validation mails: SHA-256 `{data}`
- Macro-F1 on validation mails: {found}; mean {score:.3f}. The evaluation report has the
  figures on mails that neither training nor calibration saw
- Routed without a person: {routing["expected_coverage"]:.0%} of mails like the validation mails. With
  {config.route_confidence:.0%} confidence at least {config.route_precision:.0%} of that is right, counted a
  {config.route_promise}

## Tasks

{tasks}

## Intended use and limits

It decides who should read a mail first. It is not meant to answer mails, to judge clients, or to read languages other
than those it was trained on. Confidence was calibrated on mails like the training mails: measure again when
they change.
"""
