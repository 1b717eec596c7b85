"""Packed mails give what padded mails give: logits, losses and weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DistilBertConfig, DistilBertModel

from mailtriage import packing as packing_module
from mailtriage.config import TrainingConfig
from mailtriage.errors import ConfigError
from mailtriage.examples import Example
from mailtriage.features import pad
from mailtriage.fitting import fit, prepare
from mailtriage.model import MultiTaskClassifier
from mailtriage.packing import Packed, packing
from mailtriage.taxonomy import Taxonomy

Parts = tuple[list[Example], list[Example]]


@pytest.fixture(scope="module")
def parts(examples: list[Example]) -> Parts:
    return examples[:120], examples[320:360]


def _both(model: MultiTaskClassifier, mails: list[np.ndarray]) -> tuple[dict[str, torch.Tensor], ...]:
    ids, mask = map(torch.from_numpy, pad(mails))
    with torch.inference_mode():
        padded = model(ids, mask)
        with packing(model, wanted=True, halves=False):
            packed = model(packed=Packed.of(mails))
        again = model(ids, mask)
    assert all(torch.equal(padded[task], again[task]) for task in padded)  # the encoder is as it was
    return padded, packed


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("tasks", ["together", "separate"])
def test_packed_mails_give_the_logits_of_padded_ones(
    tasks: str, pooling: str, tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: Parts
) -> None:
    config = tiny_config.model_copy(update={"tasks": tasks, "pooling": pooling})
    model, train, _ = prepare(config, taxonomy, *parts, tmp_path)
    mails = [train.input_ids[0][:1], *train.input_ids[1:9], train.input_ids[9][:2]]

    padded, packed = _both(model.eval(), mails)

    for task, values in padded.items():
        torch.testing.assert_close(packed[task], values, atol=1e-5, rtol=0)


def test_distilbert_reads_packed_mails_too() -> None:
    torch.manual_seed(3)
    settings = DistilBertConfig(
        vocab_size=200, dim=24, hidden_dim=48, n_layers=2, n_heads=2, max_position_embeddings=64
    )
    model = MultiTaskClassifier.from_encoder(DistilBertModel(settings), {"queue": 5}, "mean", 0.0).eval()
    random = np.random.default_rng(3)
    mails = [random.integers(4, 200, length).astype(np.int32) for length in (1, 40, 7, 64)]

    padded, packed = _both(model, mails)

    torch.testing.assert_close(packed["queue"], padded["queue"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("width", [12, 16])
def test_the_kernel_of_a_gpu_is_called_as_it_wants(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = torch.tensor([0, 1, 6, 9], dtype=torch.int32)
    query, key, value = torch.randn(3, 1, 4, 9, width, generator=torch.Generator().manual_seed(3)).unbind(0)
    keywords = {"cu_seq_lens_q": starts, "max_length_q": 5, "scaling": 0.3}
    right, _ = packing_module._attention(torch.nn.Module(), query, key, value, None, **keywords)

    def kernel(q, k, v, starts_q, starts_k, longest_q, longest_k, *, scale):  # type: ignore[no-untyped-def]
        assert q.shape[-1] % 8 == 0
        assert (starts_q.dtype, starts_k.dtype, longest_q, longest_k) == (torch.int32, torch.int32, 5, 5)
        mail = torch.bucketize(torch.arange(len(q)), starts_q[1:], right=True)
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        weights = scores.masked_fill(mail[:, None] != mail, -torch.inf).softmax(dim=-1)
        return torch.einsum("hqk,khd->qhd", weights, v)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    flat = (part[0].transpose(0, 1) for part in (query, key, value))

    torch.testing.assert_close(packing_module._flash(*flat, starts, 5, 0.3)[None], right)


def test_a_pytorch_without_the_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packing_module._has_kernel()
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda query, key, value, is_causal=False: query)
    assert not packing_module._has_kernel()  # PyTorch 2.10


def test_a_mail_does_not_see_its_neighbours(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: Parts
) -> None:
    model, train, _ = prepare(tiny_config, taxonomy, *parts, tmp_path)
    first, second, third = train.input_ids[:3]

    with torch.inference_mode(), packing(model.eval(), wanted=True, halves=False):
        here = model(packed=Packed.of([first, second]))["queue"][0]
        there = model(packed=Packed.of([third, first]))["queue"][1]

    torch.testing.assert_close(here, there, atol=1e-5, rtol=0)


@pytest.mark.parametrize("changed", [{}, {"r_drop": 1.0}, {"dropout_samples": 2}])
def test_packed_training_takes_the_same_way(
    changed: dict[str, float], tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: Parts
) -> None:
    config = tiny_config.model_copy(update={"epochs": 2} | changed)
    histories, implementations = [], []
    for packed in (False, True):
        model, train, validation = prepare(config, taxonomy, *parts, tmp_path)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        chosen = config.model_copy(update={"packed": packed})
        histories.append(fit(model, train, validation, chosen))
        implementations.append(model.encoder.config._attn_implementation)

    assert implementations == ["eager", "eager"]
    for padded_epoch, packed_epoch in zip(*histories, strict=True):
        assert packed_epoch.loss == pytest.approx(padded_epoch.loss, abs=1e-4)


def test_an_encoder_that_counts_positions_its_own_way_is_refused(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: Parts
) -> None:
    model, _, _ = prepare(tiny_config, taxonomy, *parts, tmp_path)
    model.encoder.config.model_type = "roberta"

    with pytest.raises(ConfigError, match="bert and distilbert; this one is 'roberta'"), packing(model, True, True):
        pass


def test_an_encoder_is_compiled_during_the_fit_alone(
    tmp_path: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[bool] = []  # whether it was compiled for any shape
    called: set[tuple[bool, bool]] = set()  # (compiled, training)

    def compile_(module: torch.nn.Module, *, dynamic: bool) -> None:
        compiled.append(dynamic)

        def call(*args: object, **keywords: object) -> object:
            called.add((True, module.training))
            return module._call_impl(*args, **keywords)

        module._compiled_call_impl = call

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    config = tiny_config.model_copy(update={"compile": True, "epochs": 2})
    model, train, validation = prepare(config, taxonomy, *parts, tmp_path)
    names = list(model.state_dict())
    states: list[list[str]] = []

    fit(model, train, validation, config, after_epoch=lambda state: states.append(list(state.model)))

    assert compiled == [True]
    assert called == {(True, True)}
    assert states == [names, names]
    assert model.encoder._compiled_call_impl is None
