"""The encoder inside the wheel, read into a `BertModel`."""

import numpy as np
import pytest
import torch

from mailtriage import embedded_encoder
from mailtriage.config import TrainingConfig
from mailtriage.embedded_encoder import load_embedded
from mailtriage.encoders import load_encoder
from mailtriage.errors import EncoderError

TEXTS = ["query: Wie übertrage ich mein Depot zu Ihnen?", "query: How do I transfer my securities account?"]
OTHER = "query: Das Wetter wird morgen schön."


@pytest.fixture(scope="module")
def embedded():  # type: ignore[no-untyped-def]
    return load_embedded(TEXTS, ("de", "en"))


def _vector(model, tokenizer, text: str) -> np.ndarray:  # type: ignore[no-untyped-def]
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.inference_mode():
        tokens = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
    vector = tokens.mean(dim=0).numpy()
    return vector / np.linalg.norm(vector)


def test_translations_are_nearer_than_other_texts(embedded) -> None:  # type: ignore[no-untyped-def]
    german, english, other = (_vector(*embedded, text) for text in (*TEXTS, OTHER))

    assert german @ english > german @ other + 0.03


def test_the_vocabulary_is_cut_and_still_writes_unseen_words(embedded) -> None:  # type: ignore[no-untyped-def]
    model, tokenizer = embedded

    assert 20_000 < tokenizer.get_vocab_size() < 45_000
    assert model.config.vocab_size == tokenizer.get_vocab_size()
    ids = tokenizer.encode("Wertpapierübertragsbestätigungsschreiben Nr. 4711/23 über 1.250,00 €").ids
    assert tokenizer.token_to_id("<unk>") not in ids


def test_cutting_the_vocabulary_changes_no_vector(embedded) -> None:  # type: ignore[no-untyped-def]
    container = embedded_encoder.read_container(embedded_encoder._weights_path())
    whole = embedded_encoder._tokenizer(container.pieces)
    everything = embedded_encoder._bert(container, list(range(len(container.pieces))), None)

    for text in TEXTS:
        assert _vector(everything, whole, text) @ _vector(*embedded, text) == pytest.approx(1.0, abs=1e-5)


def test_layers_can_be_cut() -> None:
    config = TrainingConfig(encoder="embedded", encoder_layers=3, languages=("de",))

    model, _ = load_encoder(config, TEXTS)

    assert len(model.encoder.layer) == 3
    with pytest.raises(EncoderError, match="1 to 12 layers"):
        load_embedded(TEXTS, ("de",), 13)


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(EncoderError, match="'tlh'"):
        load_embedded(TEXTS, ("tlh",))


def test_an_encoder_that_is_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with pytest.raises(EncoderError, match="'no-such-model-here'"):
        load_encoder(TrainingConfig(encoder="no-such-model-here"), TEXTS)
