"""Mails end to end in one row: nothing is padded, and attention stays inside each mail.

On a GPU attention is `torch.nn.attention.varlen` (FlashAttention's kernel for rows of unequal length, Dao 2023,
arXiv:2307.08691), which computes in bf16 and fp16 alone. Elsewhere each mail is attended to by itself: right, and slow.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from mailtriage.errors import ConfigError

if TYPE_CHECKING:
    from mailtriage.features import TokenIds
    from mailtriage.model import MultiTaskClassifier

ATTENTION = "mailtriage_packed"
# Their forward passes take the positions of tokens, count them from 0, and hand keywords down to attention.
PACKABLE = frozenset({"bert", "distilbert"})
HEAD_MULTIPLE = 8  # of the width of a head, for the GPU's kernel


class Packed(NamedTuple):
    """A batch of mails without padding."""

    ids: Tensor  # (1, tokens)
    positions: Tensor  # (1, tokens), from 0 in each mail
    starts: Tensor  # (mails + 1,), int32: where each mail begins, and the end of the last
    mails: Tensor  # (tokens,): which mail a token belongs to
    longest: int  # tokens of the longest mail

    @classmethod
    def of(cls, input_ids: Sequence[TokenIds], device: str = "cpu") -> Packed:
        """Put mails behind one another; none may be empty."""
        lengths = [len(ids) for ids in input_ids]
        arrays = (
            np.concatenate([np.asarray(ids, dtype=np.int64) for ids in input_ids])[None],
            np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])[None],
            np.cumsum([0, *lengths], dtype=np.int32),
            np.repeat(np.arange(len(lengths), dtype=np.int64), lengths),
        )
        ids, positions, starts, mails = (on_device(array, device) for array in arrays)
        return cls(ids, positions, starts, mails, max(lengths))


def on_device(array: np.ndarray[Any, Any], device: str) -> Tensor:
    """The array as a tensor there; a GPU goes on working meanwhile."""
    tensor = torch.from_numpy(array)
    if device.startswith("cuda"):
        tensor = tensor.pin_memory()  # from other memory the copy may wait until the GPU has done all it was given
    return tensor.to(device, non_blocking=True)


def read_tokens(encoder: torch.nn.Module, packed: Packed) -> Tensor:
    """Token vectors of shape (tokens, width); the encoder must be one that `packing` prepared."""
    tokens: Tensor = encoder(
        input_ids=packed.ids, position_ids=packed.positions, cu_seq_lens_q=packed.starts, max_length_q=packed.longest
    ).last_hidden_state
    return tokens[0]


def pool(tokens: Tensor, packed: Packed, pooling: str) -> Tensor:
    """One vector a mail, `mean` or `cls`: (tokens, width) -> (mails, width)."""
    if pooling == "cls":
        return tokens[packed.starts[:-1].long()]
    lengths = packed.starts.diff().to(torch.float32)
    sums = torch.zeros(len(lengths), tokens.shape[1], dtype=torch.float32, device=tokens.device)
    return sums.index_add(0, packed.mails, tokens.float()) / lengths[:, None]


@contextmanager
def packing(model: MultiTaskClassifier, wanted: bool, halves: bool) -> Iterator[None]:
    """Let the model's encoders read packed mails meanwhile.

    Args:
        halves: whether it computes in bf16 or fp16, which a GPU needs for that.

    Raises:
        ConfigError: an encoder cannot read packed mails, or a GPU computes in fp32 or has a PyTorch that is too old.
    """
    if not wanted:
        yield
        return
    encoders = list({id(encoder): encoder for encoder in model.encoder_of_tasks.values()}.values())
    for encoder in encoders:
        if encoder.config.model_type not in PACKABLE:
            known = " and ".join(sorted(PACKABLE))
            raise ConfigError(f"'packed' is for encoders of type {known}; this one is '{encoder.config.model_type}'")
    if model.device.type == "cuda" and not halves:
        raise ConfigError("'packed' needs precision bf16 on a GPU")
    if model.device.type == "cuda" and not _has_kernel():
        raise ConfigError(f"'packed' needs PyTorch 2.11 or later on a GPU; this one is {torch.__version__}")
    _register()
    before = [encoder.config._attn_implementation for encoder in encoders]
    try:
        for encoder in encoders:
            encoder.set_attn_implementation(ATTENTION)
        yield
    finally:
        for encoder, implementation in zip(encoders, before, strict=True):
            encoder.set_attn_implementation(implementation)


def is_packing(model: MultiTaskClassifier) -> bool:
    return bool(next(iter(model.encoder_of_tasks.values())).config._attn_implementation == ATTENTION)


def _has_kernel() -> bool:
    """Whether this PyTorch has `varlen_attn` as `_flash` calls it: 2.10 lacks `scale`, and older ones all of it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "scale" in inspect.signature(varlen_attn).parameters


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, lambda *_args, **_keywords: None)


def _attention(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    **_keywords: Any,
) -> tuple[Tensor, None]:
    """As `transformers` asks: (1, heads, tokens, width) each -> (1, tokens, heads, width). Drops no weights."""
    query, key, value = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    if query.is_cuda:
        return _flash(query, key, value, cu_seq_lens_q, max_length_q, scaling)[None], None
    parts = []
    for start, end in pairwise(cu_seq_lens_q.tolist()):
        q, k, v = (part[start:end].transpose(0, 1) for part in (query, key, value))
        parts.append(scaled_dot_product_attention(q, k, v, scale=scaling))
    return torch.cat(parts, dim=1).transpose(0, 1)[None], None


def _flash(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scaling: float | None) -> Tensor:
    """Attention on a GPU: (tokens, heads, width) each, and so the result; heads of other widths get zeros meanwhile."""
    from torch.nn.attention.varlen import varlen_attn

    width = query.shape[-1]
    if width % HEAD_MULTIPLE:
        query, key, value = (pad(part, (0, -width % HEAD_MULTIPLE)) for part in (query, key, value))
    scale = width**-0.5 if scaling is None else scaling
    found = varlen_attn(query, key, value, starts, starts, longest, longest, scale=scale)
    assert isinstance(found, Tensor)
    return found[..., :width]
