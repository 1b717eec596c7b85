"""What many tests share: the taxonomy of the sample house, and a small bundle that really was trained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailtriage.bundle import Bundle
from mailtriage.config import TrainingConfig
from mailtriage.examples import Example
from mailtriage.mail import Email
from mailtriage.taxonomy import Taxonomy

ROOT = Path(__file__).parent.parent

# The models of the tests are tiny: threads only get in each other's way, in this process and in those that it starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def taxonomy() -> Taxonomy:
    return Taxonomy.load(ROOT / "taxonomy.yaml")


@pytest.fixture(scope="session")
def mails() -> list[Email]:
    """400 generated mails with labels."""
    from mailtriage.sample import generate

    return list(generate(400, seed=11))


@pytest.fixture(scope="session")
def examples(mails: list[Email]) -> list[Example]:
    return [Example.from_email(mail) for mail in mails]


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, examples: list[Example]) -> Path:
    """A BERT of two narrow layers with fresh weights and a word-piece vocabulary: quick, and real all the same."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=2000, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([f"{example.subject} {example.text}" for example in examples], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(3)
    size = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertModel(BertConfig(vocab_size=tokenizer.get_vocab_size(), **size), add_pooling_layer=False).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def tiny_config(tiny_encoder: Path) -> TrainingConfig:
    return TrainingConfig(
        taxonomy=str(ROOT / "taxonomy.yaml"),
        encoder=str(tiny_encoder),
        max_tokens=96,
        epochs=6,
        batch_tokens=1024,
        learning_rate=5e-3,
        head_learning_rate=1e-2,
        layer_decay=1.0,
        precision="fp32",
        export_tolerance=0.05,
    )


@pytest.fixture(scope="session")
def bundle_path(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: TrainingConfig, taxonomy: Taxonomy, examples: list[Example]
) -> Iterator[Path]:
    """A bundle trained for a few seconds: its answers are poor, its parts are all there."""
    from mailtriage.training import train

    path = tmp_path_factory.mktemp("bundle") / "bundle"
    train(tiny_config, taxonomy, examples[:320], examples[320:], path)
    yield path
    Bundle.open(path)  # no test may have changed it


@pytest.fixture(scope="session")
def mlflow_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where MLflow keeps its SQLite file and artifacts; one for all tests, since making it takes seconds."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield tmp_path_factory.mktemp("mlflow")
