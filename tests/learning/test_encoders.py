"""Encoders by folder: the architectures that a production configuration names go the whole way to a bundle."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from mailtriage.config import TrainingConfig
from mailtriage.examples import Example
from mailtriage.taxonomy import Taxonomy
from mailtriage.training import train


def _distilbert(words: int) -> DistilBertModel:
    size = {"dim": 48, "hidden_dim": 96, "n_layers": 2, "n_heads": 4}
    return DistilBertModel(DistilBertConfig(vocab_size=words, **size))


def _roberta(words: int) -> RobertaModel:
    size = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    return RobertaModel(RobertaConfig(vocab_size=words, pad_token_id=0, **size))


@pytest.mark.parametrize("make", [_distilbert, _roberta])
def test_another_architecture_becomes_a_bundle(
    make, tmp_path: Path, tiny_encoder: Path, tiny_config: TrainingConfig, taxonomy: Taxonomy, examples: list[Example]
) -> None:
    folder = tmp_path / "encoder"
    make(Tokenizer.from_file(str(tiny_encoder / "tokenizer.json")).get_vocab_size()).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny_encoder / name).read_bytes())
    config = tiny_config.model_copy(update={"encoder": str(folder), "epochs": 1, "pooling": "cls"})

    result = train(config, taxonomy, examples[:120], examples[120:160], tmp_path / "bundle")

    assert result.bundle.onnx_path.is_file()
    assert result.history[0].loss > 0
