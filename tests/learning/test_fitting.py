"""The loop's parts: rates by depth, the schedule, bf16, and what each worker reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, PreTrainedModel

from mailtriage.config import TrainingConfig
from mailtriage.examples import Example
from mailtriage.fitting import TrainingState, Worker, _depth, _Loop, _parameter_groups, _rate, fit, prepare
from mailtriage.model import MultiTaskClassifier
from mailtriage.taxonomy import Taxonomy

LAYERS = 3
RATES = TrainingConfig(learning_rate=1e-3, head_learning_rate=0.5, layer_decay=0.5, weight_decay=0.01)
TOP = 1e-3


def _bert() -> PreTrainedModel:
    size = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    return BertModel(BertConfig(vocab_size=20, **size), add_pooling_layer=False)


def _distilbert() -> PreTrainedModel:
    return DistilBertModel(DistilBertConfig(vocab_size=20, dim=8, hidden_dim=16, n_layers=LAYERS, n_heads=2))


def _groups_by_name(model: MultiTaskClassifier, config: TrainingConfig) -> dict[str, dict[str, Any]]:
    """Each trained parameter's group; fails where a parameter is in two."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(one)], group) for group in _parameter_groups(model, config) for one in group["params"]]
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize("separate", [False, True], ids=["together", "separate"])
@pytest.mark.parametrize(("encoder", "layer"), [(_bert, "encoder.layer"), (_distilbert, "transformer.layer")])
def test_each_layer_learns_at_a_share_of_the_rate_above_it(encoder: Any, layer: str, separate: bool) -> None:
    model = MultiTaskClassifier.from_encoder(encoder(), {"queue": 2, "topic": 3}, "mean", 0.1, separate)

    groups = _groups_by_name(model, RATES)

    assert groups.keys() == dict(model.named_parameters()).keys()
    for encoded in ("encoders.queue", "encoders.topic") if separate else ("encoder",):
        own = {name.removeprefix(f"{encoded}."): group for name, group in groups.items() if name.startswith(encoded)}
        at = {
            part: {group["lr"] for name, group in own.items() if name.startswith(f"{part}.")}
            for part in ("embeddings", *(f"{layer}.{number}" for number in range(LAYERS)))
        }
        assert list(at.values()) == [{TOP / 8}, {TOP / 4}, {TOP / 2}, {TOP}]
        assert sum(name.startswith(tuple(at)) for name in own) == len(own)
    assert {group["lr"] for name, group in groups.items() if name.startswith("heads.")} == {0.5}


def test_neither_biases_nor_norms_decay_and_what_is_frozen_is_left_out() -> None:
    model = MultiTaskClassifier.from_encoder(_bert(), {"queue": 2}, "mean", 0.1)
    model.encoder.get_input_embeddings().requires_grad_(False)

    groups = _groups_by_name(model, RATES)

    assert dict(model.named_parameters()).keys() - groups.keys() == {"encoder.embeddings.word_embeddings.weight"}
    for name, group in groups.items():
        assert group["weight_decay"] == (0.0 if name.endswith("bias") or "LayerNorm" in name else 0.01), name


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("encoder.embeddings.word_embeddings.weight", 0),
        ("encoder.encoder.layer.0.output.dense.bias", 1),
        ("encoder.transformer.layer.11.ffn.lin1.weight", 12),
        ("encoders.queue.layers.2.mlp.Wi.weight", 3),
        ("encoder.h.4.attn.weight", 5),
        ("encoder.final_norm.layer.weight", 0),
    ],
)
def test_the_depth_is_the_number_of_the_layer(name: str, depth: int) -> None:
    assert _depth(name) == depth


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    rates = [_rate(step, 100, 0.1) for step in range(101)]

    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(1 / 90)
    assert rates[100] == 0.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert [_rate(step, 4, 0.0) for step in range(5)] == pytest.approx([1, 1, 2 / 3, 1 / 3, 0])


def test_an_epoch_in_bf16_learns_and_ends_at_rate_0(
    tmp_path: Path,
    tiny_config: TrainingConfig,
    taxonomy: Taxonomy,
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config.model_copy(update={"precision": "bf16", "epochs": 1, "batch_tokens": 512})
    model, train, validation = prepare(config, taxonomy, examples[:320], examples[320:], tmp_path)
    kinds: set[torch.dtype] = set()
    model.head("topic").register_forward_hook(lambda _module, _args, output: kinds.add(output.dtype))
    losses: list[float] = []
    rates: list[list[float]] = []
    states: list[TrainingState] = []
    step = _Loop._step

    def watched(loop: _Loop, positions: list[int]) -> Tensor:
        rates.append([group["lr"] for group in loop.optimizer.param_groups])
        loss = step(loop, positions)
        losses.append(float(loss))
        return loss

    monkeypatch.setattr(_Loop, "_step", watched)

    fit(model, train, validation, config, after_epoch=states.append)

    assert kinds == {torch.bfloat16}
    assert all(torch.isfinite(torch.tensor(losses)))
    third = len(losses) // 3
    assert third >= 5
    assert sum(losses[-third:]) < sum(losses[:third])
    assert {value.dtype for value in states[-1].model.values()} == {torch.float32}
    peak = rates[int(len(rates) * config.warmup)]
    assert sorted(set(peak)) == [config.learning_rate, config.head_learning_rate]
    assert rates[0] == pytest.approx([rate / int(len(rates) * config.warmup) for rate in peak])
    assert states[-1].scheduler["_last_lr"] == [0.0] * len(peak)


def test_workers_read_each_mail_once_an_epoch(
    tmp_path: Path,
    tiny_config: TrainingConfig,
    taxonomy: Taxonomy,
    examples: list[Example],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config.model_copy(update={"epochs": 2})
    model, train, validation = prepare(config, taxonomy, examples[:160], examples[160:180], tmp_path)
    read: list[int] = []
    epochs: dict[int, list[int]] = {}

    def note(_loop: _Loop, positions: list[int]) -> Tensor:
        read.extend(positions)
        return torch.zeros(())

    def end(state: TrainingState) -> None:
        epochs.setdefault(len(state.history), []).extend(read)
        read.clear()

    monkeypatch.setattr(_Loop, "_step", note)
    for rank in range(2):
        fit(model, train, validation, config, worker=Worker(rank, 2), after_epoch=end)

    assert {epoch: sorted(mails) for epoch, mails in epochs.items()} == {epoch: [*range(160)] for epoch in (1, 2)}
