"""From cleaned mails to a sealed bundle: fit, calibrate, compile thresholds, export, write down what it is."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mailtriage
from mailtriage.bundle import Bundle, write_manifest
from mailtriage.calibration import fit_temperature
from mailtriage.cleaning_trace import write_traces
from mailtriage.code_version import code_version
from mailtriage.config import TrainingConfig
from mailtriage.decoding import Decoder, Logits
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
from mailtriage.lexical import LexicalHeads, Scales, fit_lexical, fit_scales
from mailtriage.metrics import Labels
from mailtriage.model import MultiTaskClassifier
from mailtriage.seen import write_seen
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
    fitted = fit_and_calibrate(config, taxonomy, train, validation, unfinished, text, say)
    folder = output.with_name(output.name + ".sealing")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(unfinished / "tokenizer.json", folder)
    (folder / "taxonomy.yaml").write_text(text, encoding="utf-8")
    write_traces(folder, (example.trace for example in train if example.trace is not None))
    write_seen(folder, [*train, *validation])
    _seal(fitted, taxonomy, config, folder, data_hash(train, validation), say)
    shutil.rmtree(output, ignore_errors=True)
    folder.rename(output)
    shutil.rmtree(unfinished)
    say(f"sealed {output}")
    return TrainingResult(Bundle.open(output, verify=False), fitted.history, fitted.calibrated.score)


@dataclass(frozen=True)
class Calibrated:
    """What mails taught that the model had not seen, a task: scales, temperature, thresholds, macro-F1."""

    logits: dict[str, Logits]  # of those mails
    scales: Scales
    parts: dict[str, dict[str, float]]  # macro-F1 of the encoder and of the lexical heads alone; nothing without these
    temperatures: dict[str, float]
    routing: dict[str, Any]
    scores: dict[str, float]

    @property
    def score(self) -> float:
        return float(np.mean(list(self.scores.values())))


@dataclass(frozen=True)
class Fitted:
    """A model with its lexical heads, and what belongs to it before it is exported."""

    model: MultiTaskClassifier
    validation: Tokenised
    history: list[Epoch]
    calibrated: Calibrated


def fit_and_calibrate(
    config: TrainingConfig,
    taxonomy: Taxonomy,
    train: Sequence[Example],
    validation: Sequence[Example],
    folder: Path,
    text: str,
    say: Say = lambda _line: None,
) -> Fitted:
    """The first half of `train`, which says what its arguments are and what it raises.

    Args:
        folder: gets `tokenizer.json`, and the state of a run that may be stopped; it is made if it is not there.
        text: the taxonomy as YAML, which tells this run from one of another taxonomy.
    """
    model, train_set, validation_set = prepare(config, taxonomy, train, validation, folder)
    say(f"training on {len(train):,} mails, {sum(train_set.lengths):,} tokens; validating on {len(validation):,}")
    content = f"{text}{data_hash(train, validation)}"
    history = _fit_anywhere(model, train_set, validation_set, config, folder, content, say)
    calibrated = _calibrate(model, train_set, validation_set, taxonomy, config, say)
    if config.refit:
        together = [*train, *validation]
        say(f"fitting anew on all {len(together):,} mails")
        last = config.model_copy(update={"keep": "last", "patience": None})
        model, train_set, validation_set = prepare(last, taxonomy, together, validation, folder)
        content = f"{text}{data_hash(together, validation)}"  # else `last` may name the finished first run on Ray
        _fit_anywhere(model, train_set, validation_set, last, folder / "refit", content, say)
        if config.lexical:
            lexical = lexical_heads(model, train_set, config)
            lexical.set_scales(calibrated.scales)
            model.attach(lexical.to(model.device))
    return Fitted(model, validation_set, history, calibrated)


def _fit_anywhere(
    model: MultiTaskClassifier,
    train: Tokenised,
    validation: Tokenised,
    config: TrainingConfig,
    folder: Path,
    content: str,
    say: Say,
) -> list[Epoch]:
    """On Ray or here; `content` tells training data from others, so that a stopped run goes on with its own only."""
    folder.mkdir(exist_ok=True)
    settings = config.model_dump_json(exclude={"workers", "taxonomy"})
    fingerprint = hashlib.sha256(f"{settings}{content}".encode()).hexdigest()
    fit_somewhere = _fit_on_ray if config.workers else _fit_here
    return fit_somewhere(model, train, validation, config, folder, fingerprint, say)


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
        worker=Worker.alone(),
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


def answer_together(
    model: MultiTaskClassifier, train: Tokenised, validation: Tokenised, config: TrainingConfig
) -> tuple[dict[str, Logits], Scales, dict[str, dict[str, float]]]:
    """Put lexical heads beside the fitted encoder if `config.lexical` wants them, each with its scale.

    Returns:
        The model's logits of the validation mails; the scales; and macro-F1 a task of `encoder` and `lexical heads`
        alone. The last two are empty without lexical heads.
    """
    encoder = predict_logits(model, validation.input_ids, config, model.device.type)
    if not config.lexical:
        return encoder, {}, {}
    heads = lexical_heads(model, train, config)
    lexical = heads.answers(validation.input_ids)
    scales = {
        task: fit_scales(encoder[task], lexical[task], validation.targets[:, column])
        for column, task in enumerate(encoder)
    }
    heads.set_scales(scales)
    model.attach(heads.to(model.device))
    together = {task: scales[task][0] * encoder[task] + scales[task][1] * lexical[task] for task in encoder}
    parts = {"encoder": encoder, "lexical heads": lexical}
    return together, scales, {name: task_macro_f1(logits, validation.targets) for name, logits in parts.items()}


def lexical_heads(model: MultiTaskClassifier, train: Tokenised, config: TrainingConfig) -> LexicalHeads:
    """Lexical heads for the model's tasks and vocabulary, fitted on these mails; not yet attached to it."""
    vocabulary = int(next(iter(model.encoder_of_tasks.values())).config.vocab_size)
    return fit_lexical(train.input_ids, train.targets, model.config.labels, vocabulary, config.seed)


def _calibrate(
    model: MultiTaskClassifier,
    train: Tokenised,
    validation: Tokenised,
    taxonomy: Taxonomy,
    config: TrainingConfig,
    say: Say,
) -> Calibrated:
    logits, scales, parts = answer_together(model, train, validation, config)
    calibrated = calibrate(logits, validation.targets, taxonomy, config, scales, parts)
    if parts:
        alone = ", ".join(f"the {name} alone {np.mean(list(found.values())):.3f}" for name, found in parts.items())
        say(f"validation macro-F1 {calibrated.score:.3f}; {alone}")
    found = calibrated.temperatures.items()
    say("calibrated: " + ", ".join(f"{task} at temperature {value:.2f}" for task, value in found))
    return calibrated


def calibrate(
    logits: dict[str, Logits],
    targets: Labels,
    taxonomy: Taxonomy,
    config: TrainingConfig,
    scales: Scales | None = None,
    parts: dict[str, dict[str, float]] | None = None,
) -> Calibrated:
    """Temperatures and thresholds from the answers to validation mails; `targets` has the shape (mails, tasks)."""
    temperatures = {
        task.id: fit_temperature(logits[task.id], targets[:, position]) for position, task in enumerate(taxonomy.tasks)
    }
    routing = compile_thresholds(config, Decoder(taxonomy, temperatures), logits, targets)
    return Calibrated(logits, scales or {}, parts or {}, temperatures, routing, task_macro_f1(logits, targets))


def _seal(fitted: Fitted, taxonomy: Taxonomy, config: TrainingConfig, folder: Path, data: str, say: Say) -> None:
    """Write everything but tokenizer and taxonomy into the folder of the bundle."""
    model, validation, calibrated = fitted.model, fitted.validation, fitted.calibrated
    with quiet_transformers():
        model.save_pretrained(folder / "model")
    say("exporting to ONNX")
    decoder = Decoder(taxonomy, calibrated.temperatures)
    mails = validation.input_ids, validation.targets
    engines, parity = export_onnx(model, folder, *mails, decoder, config.export_tolerance, say)
    _write_json(folder / "calibration.json", {"temperatures": calibrated.temperatures})
    _write_json(folder / "thresholds.json", calibrated.routing)
    metrics = {"validation_macro_f1": calibrated.score, "parity": parity}
    metrics |= {"history": [asdict(epoch) for epoch in fitted.history]}
    metrics |= {"data_sha256": data, "validation_macro_f1_by_task": calibrated.scores}
    if calibrated.parts:
        metrics |= {"validation_macro_f1_by_part": calibrated.parts, "scales": calibrated.scales}
    _write_json(folder / "metrics.json", metrics)
    _write_json(folder / "training.json", config.model_dump(mode="json") | {"taxonomy": "taxonomy.yaml"})
    (folder / "MODEL_CARD.md").write_text(_model_card(config, taxonomy, calibrated, data), encoding="utf-8")
    write_manifest(folder, name=config.name, max_tokens=config.max_tokens, engines=engines)


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _model_card(config: TrainingConfig, taxonomy: Taxonomy, calibrated: Calibrated, data: str) -> str:
    found = ", ".join(f"{task} {score:.3f}" for task, score in calibrated.scores.items())
    tasks = "\n".join(f"- `{task.id}`: {', '.join(task.label_ids)}" for task in taxonomy.tasks)
    refit = (
        "\n- Fitted anew on training and validation mails together; validation figures, confidence and thresholds are"
        "\n  those of the model before, which had not seen the validation mails"
        if config.refit
        else ""
    )
    lexical = "\n- Lexical heads beside it: linear SVMs over TF-IDF of tokens and their pairs" if config.lexical else ""
    return f"""# {config.name}

Sorts customer e-mail in German and English: {len(taxonomy.tasks)} labels a mail, each with a calibrated confidence.

- Encoder: `{config.encoder}`, {config.encoder_layers or "all"} layers; at most {config.max_tokens} tokens{lexical}
- Made by mailtriage {mailtriage.__version__}; taxonomy {taxonomy.version}; code `{code_version()}`
- Training and validation mails: SHA-256 `{data}`
- Macro-F1 on validation mails: {found}; mean {calibrated.score:.3f}. The evaluation report has the
  figures on mails that neither training nor calibration saw{refit}
- Routed without a person: {calibrated.routing["expected_coverage"]:.0%} of mails like the validation mails. With
  {config.route_confidence:.0%} confidence at least {config.route_precision:.0%} of that is right, counted a
  {config.route_promise}

## Tasks

{tasks}

## Intended use and limits

It decides who should read a mail first. It is not meant to answer mails, to judge clients, or to read languages other
than those it was trained on. Confidence was calibrated on mails like the training mails: measure again when
they change.
"""
