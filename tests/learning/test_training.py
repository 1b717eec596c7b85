"""Training: what the loop promises, with a real if tiny encoder."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import mailtriage
from mailtriage import export, fitting, training
from mailtriage.config import TrainingConfig
from mailtriage.engines import OnnxEngine
from mailtriage.errors import DataError, ExportError
from mailtriage.evaluation import evaluate
from mailtriage.examples import Example
from mailtriage.features import pad
from mailtriage.fitting import Epoch, TrainingState, fit, predict_logits, prepare
from mailtriage.losses import disagreement
from mailtriage.model import MultiTaskClassifier
from mailtriage.taxonomy import Taxonomy


@pytest.fixture(scope="module")
def parts(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    return examples[:160], examples[160:220]


def _losses(history: list[Epoch]) -> list[float]:
    return [epoch.loss for epoch in history]


def test_training_learns(bundle_path: Path) -> None:
    history = json.loads((bundle_path / "metrics.json").read_text())["history"]

    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert max(epoch["macro_f1"] for epoch in history) > 0.25  # chance: 0.1


def test_the_model_card_says_what_it_was_trained_on_and_how_well_it_does(bundle_path: Path, taxonomy: Taxonomy) -> None:
    card, metrics = ((bundle_path / name).read_text(encoding="utf-8") for name in ("MODEL_CARD.md", "metrics.json"))

    assert json.loads(metrics)["data_sha256"] in card
    assert f"mailtriage {mailtriage.__version__}; taxonomy {taxonomy.version}" in card
    for task, score in json.loads(metrics)["validation_macro_f1_by_task"].items():
        assert f"{task} {score:.3f}" in card
    assert "Intended use and limits" in card


def test_a_stopped_run_goes_on_with_the_same_losses(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: tuple[list[Example], list[Example]]
) -> None:
    whole = _fit(tiny_config, taxonomy, parts, tmp_path / "whole")
    kept: list[TrainingState] = []

    def stop_after_two(state: TrainingState) -> None:
        kept.append(state)
        if len(state.history) == 2:
            state.save(tmp_path / "state.pt", "run")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _fit(tiny_config, taxonomy, parts, tmp_path / "stopped", after_epoch=stop_after_two)
    resumed = _fit(
        tiny_config, taxonomy, parts, tmp_path / "resumed", resume=TrainingState.load(tmp_path / "state.pt", "run")
    )

    assert len(kept) == 2
    assert _losses(resumed) == pytest.approx(_losses(whole), rel=1e-5)
    assert TrainingState.load(tmp_path / "state.pt", "another run") is None


def _killed_before_sealing(monkeypatch: pytest.MonkeyPatch, *given: object) -> None:
    """Train as given until the power goes, after the last epoch."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_seal", killed)
        with pytest.raises(KeyboardInterrupt):
            training.train(*given)  # type: ignore[arg-type]


def test_train_resumes_by_itself_after_a_kill(
    tmp_path: Path,
    tiny_config: TrainingConfig,
    taxonomy: Taxonomy,
    parts: tuple[list[Example], list[Example]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    _killed_before_sealing(monkeypatch, tiny_config, taxonomy, *parts, tmp_path / "bundle")
    result = training.train(tiny_config, taxonomy, *parts, tmp_path / "bundle", said.append)

    assert any("going on after epoch 6 of a stopped run" in line for line in said)
    assert not [line for line in said if line.startswith("epoch")]
    assert len(result.history) == 6
    assert not (tmp_path / "bundle.unfinished").exists()


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_epoch_that_is_asked_for_stays(
    keep: str,
    tmp_path: Path,
    tiny_config: TrainingConfig,
    taxonomy: Taxonomy,
    parts: tuple[list[Example], list[Example]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states: list[TrainingState] = []
    scores = iter([0.9, 0.5, 0.1])  # the first epoch is the best
    monkeypatch.setattr(fitting, "task_macro_f1", lambda *_: dict.fromkeys(taxonomy.task_ids, next(scores)))
    config = tiny_config.model_copy(update={"keep": keep, "epochs": 3})
    model, train, validation = prepare(config, taxonomy, *parts, tmp_path)

    fit(model, train, validation, config, after_epoch=states.append)

    first, last = states[0].model, states[-1].model
    kept, other = (first, last) if keep == "best" else (last, first)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, other[name]) for name, value in model.state_dict().items())


def test_a_refit_sees_all_mails_and_keeps_what_unseen_ones_said(
    tmp_path: Path,
    tiny_config: TrainingConfig,
    taxonomy: Taxonomy,
    parts: tuple[list[Example], list[Example]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    config = tiny_config.model_copy(update={"refit": True, "epochs": 3})
    once = training.train(config.model_copy(update={"refit": False}), taxonomy, *parts, tmp_path / "once")
    _killed_before_sealing(monkeypatch, config, taxonomy, *parts, tmp_path / "bundle")
    result = training.train(config, taxonomy, *parts, tmp_path / "bundle", said.append)

    bundle = result.bundle
    assert sum("going on after epoch 3 of a stopped run" in line for line in said) == 2
    assert f"fitting anew on all {len(parts[0]) + len(parts[1]):,} mails" in said
    for name in ("calibration.json", "thresholds.json"):
        assert bundle.read_json(name) == once.bundle.read_json(name)
    assert result.validation_macro_f1 == once.validation_macro_f1
    assert (bundle.path / "model/model.safetensors").read_bytes() != (
        once.bundle.path / "model/model.safetensors"
    ).read_bytes()
    assert "Fitted anew" in (bundle.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    seen = evaluate(bundle.path, parts[1], tmp_path / "seen", baseline_train=parts[0], validation=parts[1])
    assert seen["baselines"]["tfidf_svm"]["mean_macro_f1"] > 0.99  # it was fitted on them too


def test_a_saved_model_answers_the_same(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: tuple[list[Example], list[Example]]
) -> None:
    model, _, validation = prepare(tiny_config, taxonomy, *parts, tmp_path)
    model.save_pretrained(tmp_path / "model")

    again = MultiTaskClassifier.from_pretrained(tmp_path / "model")

    before, after = (predict_logits(m, validation.input_ids, tiny_config) for m in (model, again))
    assert all(np.array_equal(before[task], after[task]) for task in before)


def test_an_export_that_costs_quality_is_refused(
    tmp_path: Path,
    tiny_config: TrainingConfig,
    taxonomy: Taxonomy,
    parts: tuple[list[Example], list[Example]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "_onnx_logits", lambda _file, ids: _stubborn(taxonomy, len(ids)))

    with pytest.raises(ExportError, match="expected an export with macro-F1"):
        training.train(tiny_config.model_copy(update={"export_tolerance": 0.0}), taxonomy, *parts, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_where_only_int8_costs_quality_the_cpu_serves_fp32(
    tmp_path: Path,
    tiny_config: TrainingConfig,
    taxonomy: Taxonomy,
    parts: tuple[list[Example], list[Example]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    honest = export._onnx_logits

    def worse_in_int8(file: Path, ids: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return _stubborn(taxonomy, len(ids)) if file.name == Path(export.INT8).name else honest(file, ids)

    monkeypatch.setattr(export, "_onnx_logits", worse_in_int8)

    bundle = training.train(tiny_config, taxonomy, *parts, tmp_path / "bundle", said.append).bundle

    assert bundle.engine_file("cpu") == export.FP32
    assert OnnxEngine(bundle).name == f"onnxruntime {Path(export.FP32).name} cpu"
    assert [str(file.relative_to(bundle.path)) for file in bundle.path.rglob("*.onnx")] == [export.FP32]
    assert export.INT8 not in bundle.manifest["files"]
    assert any(line.startswith(f"{export.INT8}: ") and line.endswith("refused") for line in said)
    assert any(line.startswith(f"{export.FP32}: ") and line.endswith("ok") for line in said)


def test_no_mails_and_no_labels_are_errors(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: tuple[list[Example], list[Example]]
) -> None:
    unlabelled = [dataclasses.replace(e, labels=dict(e.labels) | {"queue": None}) for e in parts[0]]

    with pytest.raises(DataError, match="found 0"):
        prepare(tiny_config, taxonomy, [], parts[1], tmp_path)
    with pytest.raises(DataError, match="label for task 'queue'"):
        prepare(tiny_config, taxonomy, unlabelled, parts[1], tmp_path)


def _fit(config, taxonomy, parts, folder: Path, **options) -> list[Epoch]:  # type: ignore[no-untyped-def]
    model, train, validation = prepare(config, taxonomy, *parts, folder)
    return fit(model, train, validation, config, **options)


def _stubborn(taxonomy: Taxonomy, mails: int) -> dict[str, np.ndarray]:
    """Logits that give every mail the last label of each task."""
    return {task.id: np.tile(np.arange(len(task.labels), dtype=np.float32), (mails, 1)) for task in taxonomy.tasks}


def test_separate_tasks_are_single_task_models_in_one_bundle(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: tuple[list[Example], list[Example]]
) -> None:
    config = tiny_config.model_copy(update={"tasks": "separate", "epochs": 1})
    alone = [dataclasses.replace(e, labels={"queue": e.labels.get("queue")}) for part in parts for e in part]
    only_queue = Taxonomy(taxonomy.version, (taxonomy.task("queue"),))

    together = _weights_of(config, taxonomy, parts, tmp_path / "together")
    single = _weights_of(config, only_queue, (alone[:160], alone[160:]), tmp_path / "single")

    ours = {name: value for name, value in together.items() if ".queue." in name}
    assert ours.keys() == single.keys()
    assert all(np.allclose(ours[name], single[name], atol=2e-2) for name in ours)  # but for the draws of dropout
    bundle = training.train(config, taxonomy, *parts, tmp_path / "bundle").bundle
    assert set(OnnxEngine(bundle).forward(np.ones((1, 4), int), np.ones((1, 4), int))) == set(taxonomy.task_ids)


def test_patience_ends_a_run_that_gets_no_better(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: tuple[list[Example], list[Example]]
) -> None:
    idle = tiny_config.model_copy(update={"patience": 2, "learning_rate": 1e-9, "head_learning_rate": 1e-9})

    assert len(_fit(idle, taxonomy, parts, tmp_path)) == 3


@pytest.mark.parametrize(("share", "expected"), [(None, 0.0), (0.2, 0.2)])
def test_encoder_dropout_replaces_the_encoders_own_but_for_attention(
    share: float | None,
    expected: float,
    tmp_path: Path,
    tiny_config: TrainingConfig,
    taxonomy: Taxonomy,
    parts: tuple[list[Example], list[Example]],
) -> None:
    embedded = tiny_config.model_copy(update={"encoder": "embedded", "encoder_layers": 1, "encoder_dropout": share})

    model, _, _ = prepare(embedded, taxonomy, *parts, tmp_path)

    layer = model.encoder.encoder.layer[0]
    dropped = (model.encoder.embeddings.dropout.p, layer.attention.output.dropout.p, layer.output.dropout.p)
    assert dropped == (expected,) * 3
    assert layer.attention.self.dropout.p == 0.0


def test_a_deterministic_run_can_be_repeated_to_the_bit(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: tuple[list[Example], list[Example]]
) -> None:
    config = tiny_config.model_copy(update={"deterministic": True, "epochs": 2})
    modes: list[bool] = []

    def weights(seed: int) -> dict[str, bytes]:
        seeded = config.model_copy(update={"seed": seed})
        model, train, validation = prepare(seeded, taxonomy, *parts, tmp_path)
        fit(
            model,
            train,
            validation,
            seeded,
            after_epoch=lambda _state: modes.append(torch.are_deterministic_algorithms_enabled()),
        )
        return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}

    first = weights(3)

    assert weights(3) == first
    assert weights(4) != first
    assert modes == [True] * 6
    assert not torch.are_deterministic_algorithms_enabled()


def test_dropout_samples_are_masks_of_one_reading_and_only_of_training(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: tuple[list[Example], list[Example]]
) -> None:
    config = tiny_config.model_copy(update={"dropout_samples": 4, "dropout": 0.5})
    model, _, validation = prepare(config, taxonomy, *parts, tmp_path)
    ids = torch.from_numpy(validation.input_ids[0].astype(np.int64))[None].repeat(2, 1)
    read: list[int] = []
    model.encoder.register_forward_hook(lambda _module, _args, output: read.append(len(output.last_hidden_state)))

    training_logits = model.train()(ids, torch.ones_like(ids))["queue"]
    answers = model.eval()(ids, torch.ones_like(ids))["queue"]

    assert read == [2, 2]  # the encoder, which costs the time, reads each mail once
    assert training_logits.shape[0] == 8
    assert len({tuple(row) for row in training_logits.tolist()}) == 8
    assert answers.shape[0] == 2


def test_r_drop_makes_two_readings_of_a_mail_agree(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: tuple[list[Example], list[Example]]
) -> None:
    def disagreement_after(weight: float) -> float:
        config = tiny_config.model_copy(update={"r_drop": weight, "epochs": 4, "dropout": 0.5, "dropout_samples": 2})
        model, train, validation = prepare(config, taxonomy, *parts, tmp_path)
        history = fit(model, train, validation, config)
        assert history[-1].loss < history[0].loss
        ids, mask = (torch.from_numpy(array) for array in pad(validation.input_ids[:40]))
        torch.manual_seed(1)
        readings = [model.train()(ids, mask) for _ in range(8)]  # two masks of dropout each
        return sum(disagreement(values, len(ids)).item() for logits in readings for values in logits.values())

    assert disagreement_after(30.0) < 0.6 * disagreement_after(0.0)


def _weights_of(config, taxonomy, parts, folder: Path) -> dict[str, np.ndarray]:  # type: ignore[no-untyped-def]
    """What training without dropout makes of heads that start equal."""
    model, train, validation = prepare(config.model_copy(update={"dropout": 0.0}), taxonomy, *parts, folder)
    for encoder in model.encoders.values():
        encoder.apply(lambda part: setattr(part, "p", 0.0) if isinstance(part, torch.nn.Dropout) else None)
        for layer in encoder.encoder.layer:
            layer.attention.self.attention_dropout = 0.0
    for task in model.heads:
        torch.nn.init.zeros_(model.head(task).weight)
    fit(model, train, validation, config.model_copy(update={"dropout": 0.0}))
    return {name: value.numpy() for name, value in model.state_dict().items()}
