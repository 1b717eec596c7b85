"""Measure a bundle on labelled mails, as it would answer in production: `metrics.json`, pictures and a report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mailtriage import baselines, champion, metrics, plots, report, seen
from mailtriage.bundle import Bundle
from mailtriage.cleaning import Cleaned
from mailtriage.decoding import Decoder, Probabilities
from mailtriage.engines import OnnxEngine
from mailtriage.errors import DataError
from mailtriage.examples import Example
from mailtriage.inference import Engine, Triage, forward_in_batches
from mailtriage.mail import Email
from mailtriage.metrics import UNLABELLED, Flags, Labels
from mailtriage.splitting import crossings
from mailtriage.taxonomy import Task, Taxonomy

_MENTIONS_ATTACHMENT = re.compile(
    r"\b(anhang|angehängt\w*|anlagen?|anbei|beigefügt\w*|attached|attachments?|enclosed)\b", re.I
)
LENGTHS = ((200, "under 200"), (600, "200 to 599"), (1500, "600 to 1,499"))  # characters of cleaned text
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Answers:
    """What the model said about some mails, as arrays of shape (mails,) a task.

    `first` is the most probable label of each task alone, `chosen` the one after joint decoding.
    """

    true: dict[str, Labels]
    first: dict[str, Labels]
    chosen: dict[str, Labels]
    confidence: dict[str, Any]
    probabilities: dict[str, Probabilities]
    uncalibrated: dict[str, Probabilities]
    answerable: Flags
    routed: Flags


def evaluate(
    bundle_path: str | Path,
    examples: Sequence[Example],
    output: Path,
    *,
    engine: Engine | None = None,
    baseline_train: Sequence[Example] = (),
    validation: Sequence[Example] = (),
    champion_path: str | Path | None = None,
    against: Mapping[str, str | Path] | None = None,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Write `metrics.json`, `report.html`, `*.png` and `confusion_TASK.csv` into `output` and return the metrics.

    Args:
        bundle_path: a bundle; it is verified.
        examples: cleaned mails with labels. The report counts those that the model was fitted on or chosen by, if there
            are such.
        engine: what runs the model; by default the bundle's ONNX export.
        baseline_train: training mails to fit the baselines on; without them the report has none, and does not prove
            that no group of mails crosses the split.
        validation: validation mails, for that proof; baselines get them too where the model did (`refit`).
        champion_path: another bundle to compare with, such as the one that serves; `flips.csv` lists what changes.
        against: name -> a bundle whose figures on the same mails stand beside those of this one.
        progress: is told what happens now.

    Raises:
        DataError: there are no mails.
        TaxonomyError: a mail has a label that the bundle does not have.
        BundleError: the bundle must not be used.
    """
    if not examples:
        raise DataError("expected mails to evaluate on, found none")
    output.mkdir(parents=True, exist_ok=True)
    bundle = Bundle.open(bundle_path)
    progress(f"asking the model about {len(examples):,} mails")
    answers = answer(Triage.from_bundle(bundle), engine or OnnxEngine(bundle), bundle.taxonomy, examples)
    result = measure(bundle.taxonomy, bundle.decoder, answers, examples)
    result["overall"]["mails_seen"] = seen.count_seen(bundle, examples)
    result["overall"]["routing"] |= promise(bundle, result["overall"]["routed_of_all"])
    result["model"] = describe(bundle)
    if baseline_train:
        fitted = [*baseline_train, *validation] if _is_refitted(bundle) else baseline_train
        progress(f"fitting the baselines on {len(fitted):,} mails")
        result["baselines"] = measure_baselines(bundle.taxonomy, fitted, examples, answers.true)
        result["split"] = crossings(
            {"train": baseline_train, "validation": validation, "test": examples}
            if validation
            else {"train": baseline_train, "test": examples}
        )
    if champion_path is not None:
        progress("asking the champion")
        result["champion"] = _against_champion(Bundle.open(champion_path), bundle.taxonomy, answers, examples, output)
    for name, path in (against or {}).items():
        progress(f"asking {name}")
        other = Bundle.open(path)
        given = champion.answers_of(other, bundle.taxonomy, examples)
        found = _who(other, examples) | champion.scores(bundle.taxonomy, answers.true, given)
        result.setdefault("against", {})[name] = found
    progress("drawing")
    pictures = draw(output, bundle.taxonomy, answers, result, training_history(bundle), _parts(bundle))
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    (output / "metrics.json").write_text(text, encoding="utf-8")
    report.write(output / "report.html", result, pictures, bundle.taxonomy)
    return result


def _against_champion(
    bundle: Bundle, taxonomy: Taxonomy, answers: Answers, examples: Sequence[Example], output: Path
) -> dict[str, Any]:
    old = champion.answers_of(bundle, taxonomy, examples)
    champion.write_flips(output / champion.FLIPS, champion.flips(taxonomy, examples, answers.true, answers.chosen, old))
    return _who(bundle, examples) | champion.compare(taxonomy, answers.true, answers.chosen, old)


def _who(bundle: Bundle, examples: Sequence[Example]) -> dict[str, Any]:
    """Another model, and how many of the mails it was fitted on or chosen by: these flatter it."""
    return {"model": describe(bundle), "mails_seen": seen.count_seen(bundle, examples)}


def _is_refitted(bundle: Bundle) -> bool:
    """Whether the model was fitted anew on training and validation mails together."""
    return bool(_training_settings(bundle).get("refit"))


def _training_settings(bundle: Bundle) -> dict[str, Any]:
    """The configuration that the bundle was trained with; empty for older bundles."""
    return bundle.read_json("training.json") if (bundle.path / "training.json").is_file() else {}


def training_history(bundle: Bundle) -> list[dict[str, Any]]:
    """What training wrote down after each epoch: rows with `epoch`, `loss` and `macro_f1`; empty for older bundles."""
    if not (bundle.path / "metrics.json").is_file():
        return []
    return list(bundle.read_json("metrics.json").get("history", []))


def _parts(bundle: Bundle) -> dict[str, float]:
    """Mean macro-F1 on the validation mails of the whole model and of its lexical heads, if it has such."""
    measured = bundle.read_json("metrics.json") if (bundle.path / "metrics.json").is_file() else {}
    if "validation_macro_f1_by_part" not in measured:
        return {}
    alone = measured["validation_macro_f1_by_part"]["lexical heads"]
    return {
        "both together": measured["validation_macro_f1"],
        "lexical heads alone": float(np.mean(list(alone.values()))),
    }


def describe(bundle: Bundle) -> dict[str, Any]:
    """Which model was measured."""
    return {
        "name": bundle.manifest.get("name", "mailtriage"),
        "version": bundle.model_version,
        "digest": bundle.digest,
        "taxonomy_version": bundle.taxonomy.version,
        "created_at": bundle.manifest.get("created_at"),
    }


def promise(bundle: Bundle, routed: float) -> dict[str, Any]:
    """What the thresholds were compiled for, the coverage that was expected, and the mails a day left for people."""
    compiled = bundle.read_json("thresholds.json")
    a_day = _training_settings(bundle).get("mails_a_day")
    return {
        "promise": {
            "of": compiled.get("promise", "task"),
            "by": compiled.get("by"),
            "precision": compiled.get("precision"),
            "confidence": compiled.get("confidence"),
        },
        "thresholds": compiled["thresholds"],
        "expected_coverage": compiled.get("expected_coverage"),
        "mails_a_day": a_day,
        "left_a_day": None if a_day is None else round(a_day * (1 - routed), 1),
    }


def answer(triage: Triage, engine: Engine, taxonomy: Taxonomy, examples: Sequence[Example]) -> Answers:
    """Run the phases of inference on mails that are cleaned already."""
    mails = [Email(id=mail.id, custodian_bank=mail.custodian_bank) for mail in examples]
    prepared = triage.tokenise(mails, [Cleaned(mail.subject, mail.text, ()) for mail in examples])
    answerable = np.zeros(len(mails), dtype=bool)
    answerable[prepared.answerable] = True
    logits = forward_in_batches(engine.forward, prepared.tokens) if answerable.any() else {}
    predictions = triage.finish(prepared, logits)
    tasks = taxonomy.task_ids
    plain = Decoder(taxonomy)
    empty = {task.id: np.zeros((0, len(task.labels)), dtype=np.float32) for task in taxonomy.tasks}
    probabilities = _spread(triage.decoder.probabilities(logits or empty), answerable)
    true = true_labels(taxonomy, examples)
    scores = {task: [prediction.decoded.labels[task] for prediction in predictions] for task in tasks}
    return Answers(
        true=true,
        first={task: probabilities[task].argmax(axis=1) for task in tasks},
        chosen={
            task.id: np.array([task.index(score.label) for score in scores[task.id]], dtype=np.int64)
            for task in taxonomy.tasks
        },
        confidence={task: np.array([score.confidence for score in scores[task]]) for task in tasks},
        probabilities=probabilities,
        uncalibrated=_spread(plain.probabilities(logits or empty), answerable),
        answerable=answerable,
        routed=np.array([prediction.decoded.decision == "route" for prediction in predictions]),
    )


def true_labels(taxonomy: Taxonomy, examples: Sequence[Example]) -> dict[str, Labels]:
    """Label numbers a task, shape (mails,), `UNLABELLED` where a mail has none."""
    rows = np.array([mail.indices(taxonomy) for mail in examples], dtype=np.int64)
    return {task: rows[:, position] for position, task in enumerate(taxonomy.task_ids)}


def measure(taxonomy: Taxonomy, decoder: Decoder, answers: Answers, examples: Sequence[Example]) -> dict[str, Any]:
    """The content of `metrics.json`: one entry a task, then `overall` and `slices`."""
    result: dict[str, Any] = {}
    for task in taxonomy.tasks:
        entry = metrics.classification(task.label_ids, answers.true[task.id], answers.chosen[task.id])
        entry["calibration"] = _calibration(answers, task.id)
        entry["routing"] = _task_routing(answers, task, decoder)
        result[task.id] = entry
    complete = np.logical_and.reduce([values != UNLABELLED for values in answers.true.values()])
    right = np.logical_and.reduce([answers.true[task] == answers.chosen[task] for task in taxonomy.task_ids])
    read = answers.answerable
    result["overall"] = {
        "mails": len(examples),
        "mails_without_text": int((~read).sum()),
        "mean_macro_f1": round(float(np.mean([result[task]["macro_f1"] for task in taxonomy.task_ids])), 4),
        **metrics.exact_match(answers.true, answers.chosen),
        "invalid_before_decoding": metrics.invalid_share(_rows(answers.first, read), taxonomy.valid_indices),
        "invalid_after_decoding": metrics.invalid_share(_rows(answers.chosen, read), taxonomy.valid_indices),
        "routing": metrics.routing(answers.routed[complete], right[complete]),
        "routed_of_all": round(float(answers.routed.mean()), 4),
    }
    counts = {task.id: len(task.labels) for task in taxonomy.tasks}
    result["slices"] = {
        name: metrics.slice_scores(groups, counts, answers.true, answers.chosen)
        for name, groups in slices(examples).items()
    }
    return result


def slices(examples: Sequence[Example]) -> dict[str, list[str]]:
    """How mails are grouped for a second look: slice -> each mail's group."""
    return {
        "language": [mail.language or "unclear" for mail in examples],
        "custodian_bank": [mail.custodian_bank or "none named" for mail in examples],
        "length": [_length(mail) for mail in examples],
        "month": [mail.received_at.strftime("%Y-%m") if mail.received_at else "unknown" for mail in examples],
        "attachment": [_attachment(mail) for mail in examples],
        "quoted_mail": ["with a quoted mail" if "quote" in mail.removed_kinds else "without" for mail in examples],
    }


def measure_baselines(
    taxonomy: Taxonomy, train: Sequence[Example], test: Sequence[Example], true: Mapping[str, Labels]
) -> dict[str, Any]:
    """Name -> task -> `accuracy` and `macro_f1`, and `mean_macro_f1`."""
    known = true_labels(taxonomy, train)
    result: dict[str, Any] = {}
    for name, predicted in (
        ("majority", baselines.majority(known, len(test))),
        ("tfidf_svm", baselines.tfidf_svm(train, known, test)),
    ):
        scores = {
            task.id: metrics.Scores.of(metrics.confusion_matrix(len(task.labels), true[task.id], predicted[task.id]))
            for task in taxonomy.tasks
        }
        result[name] = {
            task: {"accuracy": round(float(score.accuracy), 4), "macro_f1": round(float(score.macro_f1), 4)}
            for task, score in scores.items()
        }
        result[name]["mean_macro_f1"] = round(float(np.mean([score.macro_f1 for score in scores.values()])), 4)
    return result


def draw(
    output: Path,
    taxonomy: Taxonomy,
    answers: Answers,
    result: Mapping[str, Any],
    history: Sequence[Mapping[str, float]] = (),
    parts: Mapping[str, float] | None = None,
) -> dict[str, Path]:
    """Draw every picture, and return them by name in the order of the report; confusion matrices are also CSV."""
    pictures = {"coverage": plots.coverage_curve(output / "coverage.png", *_coverage(taxonomy, answers, result))}
    calibration = {task: _reliability(answers, task) for task in taxonomy.task_ids}
    pictures["reliability"] = plots.reliability_diagram(output / "reliability.png", calibration)
    for task in taxonomy.tasks:
        file = output / f"label_f1_{task.id}.png"
        pictures[f"label_f1_{task.id}"] = plots.label_f1(file, task.id, result[task.id]["labels"])
    for task in taxonomy.tasks:
        matrix = metrics.confusion_matrix(len(task.labels), answers.true[task.id], answers.chosen[task.id])
        file = output / f"confusion_{task.id}.png"
        _write_table(file.with_suffix(".csv"), task.label_ids, matrix)
        pictures[f"confusion_{task.id}"] = plots.confusion_matrix(file, task.id, task.label_ids, matrix)
    counts = {
        task.id: {label: entry["support"] for label, entry in result[task.id]["labels"].items()}
        for task in taxonomy.tasks
    }
    pictures["labels"] = plots.label_distribution(output / "labels.png", counts)
    if history:
        pictures["training"] = plots.training_curve(output / "training.png", history, parts)
    return pictures


def _calibration(answers: Answers, task: str) -> dict[str, Any]:
    before, after = (_top(answers, task, which) for which in (answers.uncalibrated, answers.probabilities))
    return {
        "ece_before": metrics.expected_calibration_error(*before),
        "ece_after": metrics.expected_calibration_error(*after),
        "ece_by_chance": metrics.calibration_error_by_chance(after[0]),
    }


def _reliability(answers: Answers, task: str) -> dict[str, Any]:
    before, after = (_top(answers, task, which) for which in (answers.uncalibrated, answers.probabilities))
    rows = {"before": metrics.reliability(*before), "after": metrics.reliability(*after)}
    return rows | _calibration(answers, task)


def _top(answers: Answers, task: str, probabilities: Mapping[str, Probabilities]) -> tuple[Any, Flags]:
    """Confidence and correctness of a task's most probable label, over the labelled mails that the model saw."""
    used = answers.answerable & (answers.true[task] != UNLABELLED)
    values = probabilities[task][used]
    if not len(values):
        return np.zeros(0), np.zeros(0, dtype=bool)
    return values.max(axis=1), values.argmax(axis=1) == answers.true[task][used]


def _task_routing(answers: Answers, task: Task, decoder: Decoder) -> dict[str, Any]:
    """How many are right of the mails that this task's threshold lets through, or of the routed ones if it has none."""
    known = answers.true[task.id] != UNLABELLED
    right = answers.true[task.id] == answers.chosen[task.id]
    if task.id not in decoder.thresholds:
        return {"threshold": None} | metrics.routing(answers.routed[known], right[known])
    least = np.array([decoder.threshold(task.id, {task.id: label}) for label in task.label_ids], dtype=np.float64)
    wanted = np.nan_to_num(least, nan=np.inf)[answers.chosen[task.id]]
    accepted = answers.answerable & (answers.confidence[task.id] >= wanted)
    threshold = decoder.thresholds[task.id]
    single = None if isinstance(threshold, Mapping) else threshold
    return {"threshold": single} | metrics.routing(accepted[known], right[known])


def _coverage(taxonomy: Taxonomy, answers: Answers, result: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    curves, points = {}, {}
    for task in taxonomy.task_ids:
        known = answers.true[task] != UNLABELLED
        right = answers.true[task] == answers.chosen[task]
        if known.any():
            curves[task] = metrics.coverage_curve(answers.confidence[task][known], right[known])
        if result[task]["routing"]["precision"] is not None:
            points[task] = (result[task]["routing"]["coverage"], result[task]["routing"]["precision"])
    return curves, points


def _write_table(file: Path, labels: Sequence[str], matrix: Labels) -> None:
    """A confusion matrix that a spreadsheet opens: first row predicted labels, first column true ones."""
    lines = [["true \\ predicted", *labels]]
    lines += [[label, *map(str, row)] for label, row in zip(labels, matrix.tolist(), strict=True)]
    file.write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")


def read_table(file: Path) -> tuple[list[str], list[list[int]]]:
    """The labels and the matrix of a `confusion_TASK.csv` that `evaluate` wrote."""
    header, *rows = (line.split(",") for line in file.read_text(encoding="utf-8").splitlines())
    return header[1:], [[int(count) for count in row[1:]] for row in rows]


def _length(mail: Example) -> str:
    return next((name for limit, name in LENGTHS if len(mail.text) < limit), "1,500 and more")


def _attachment(mail: Example) -> str:
    """By what the mail brought; where nobody counted that, by its words, which is said."""
    if mail.attachments is not None:
        return "with a file" if mail.attachments else "without a file"
    return "not known, speaks of one" if _MENTIONS_ATTACHMENT.search(mail.text) else "not known, speaks of none"


def _rows(labels: Mapping[str, Labels], chosen: Flags) -> dict[str, Labels]:
    return {task: values[chosen] for task, values in labels.items()}


def _spread(values: Mapping[str, Probabilities], answerable: Flags) -> dict[str, Probabilities]:
    """Put the rows of answerable mails back among all mails; the others get zeros."""
    result = {}
    for task, rows in values.items():
        result[task] = np.zeros((len(answerable), rows.shape[1]))
        result[task][answerable] = rows
    return result
