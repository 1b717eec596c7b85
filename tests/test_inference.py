"""Three phases of inference: what was trained is what answers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mailtriage.bundle import Bundle
from mailtriage.engines import OnnxEngine
from mailtriage.features import MailTokenizer, model_text, pad
from mailtriage.inference import Prepared, Triage, forward_in_batches, predict
from mailtriage.mail import Email


@pytest.fixture(scope="module")
def triage(bundle_path: Path) -> Triage:
    return Triage.open(bundle_path)


@pytest.fixture(scope="module")
def engine(bundle_path: Path) -> OnnxEngine:
    return OnnxEngine(Bundle.open(bundle_path), threads=1)


def test_the_engine_answers_as_the_trained_model_does(
    bundle_path: Path, triage: Triage, engine: OnnxEngine, mails: list[Email]
) -> None:
    import torch

    from mailtriage.model import MultiTaskClassifier

    model = MultiTaskClassifier.from_pretrained(bundle_path / "model").eval()
    ids, mask = triage.prepare(mails[:64]).tensors()

    with torch.inference_mode():
        trained = model(torch.from_numpy(ids), torch.from_numpy(mask))
    served = engine.forward(ids, mask)

    for task, logits in trained.items():
        assert (served[task].argmax(1) == logits.numpy().argmax(1)).mean() > 0.95
        np.testing.assert_allclose(served[task], logits.numpy(), atol=0.35)


def test_answers_keep_the_order_and_the_ids(triage: Triage, engine: OnnxEngine, mails: list[Email]) -> None:
    together = predict(triage, engine, mails[:50], token_budget=256)
    alone = [predict(triage, engine, [mail])[0] for mail in mails[:50]]

    assert [p.id for p in together] == [mail.id for mail in mails[:50]]
    same = [
        a.decoded.labels["queue"].label == b.decoded.labels["queue"].label for a, b in zip(together, alone, strict=True)
    ]
    assert sum(same) >= 48  # int8 rounds by batch; labels near a tie may turn


class FirstTokenEngine:
    """Answers each mail with its first token and its length; remembers the shapes of its passes."""

    name = "first token"

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
        self.shapes.append(input_ids.shape)
        return {"task": np.stack([input_ids[:, 0], attention_mask.sum(1)], axis=1).astype(np.float32)}


def prepared(lengths: list[int]) -> Prepared:
    """Mails of these lengths; the first token of each is its place."""
    ids = tuple(np.full(length, place, dtype=np.int32) for place, length in enumerate(lengths))
    return Prepared(tuple(map(str, range(len(lengths)))), (), ids)


def test_a_pass_takes_what_fits_in_the_budget_and_answers_keep_their_places() -> None:
    lengths = [10, 0, 90, 20, 300, 10, 20, 100, 20]  # 0: nothing left after cleaning; 300: alone, above the budget
    engine = FirstTokenEngine()

    logits = forward_in_batches(engine.forward, prepared(lengths).tokens, token_budget=200)["task"]

    assert logits.tolist() == [[place, length] for place, length in enumerate(lengths) if length]
    assert engine.shapes == [(5, 20), (2, 100), (1, 300)]


def test_short_mails_share_larger_passes_than_long_ones() -> None:
    lengths = np.random.default_rng(3).integers(5, 256, size=200).tolist()
    engine = FirstTokenEngine()

    forward_in_batches(engine.forward, prepared(lengths).tokens, token_budget=1024)

    assert all(mails * tokens <= 1024 for mails, tokens in engine.shapes)
    assert engine.shapes[0][0] > 20
    assert engine.shapes[-2][0] < 5
    assert sum(mails * tokens for mails, tokens in engine.shapes) < 1.1 * sum(lengths)


def test_the_record_is_the_rest_contract(triage: Triage, engine: OnnxEngine, mails: list[Email]) -> None:
    record = predict(triage, engine, mails[:1])[0].to_record()

    assert list(record) == ["id", "labels", "decision", "alternatives", "model_version", "taxonomy_version"]
    assert set(record["labels"]) == {"line_of_business", "queue", "topic"}
    assert set(record["labels"]["queue"]) == {"label", "confidence"}
    assert isinstance(record["labels"]["queue"]["confidence"], float)
    assert record["decision"] in ("route", "review")


def test_a_mail_that_is_empty_after_cleaning_is_for_a_person(
    triage: Triage, engine: OnnxEngine, mails: list[Email]
) -> None:
    empty = Email(id="empty", subject="Re: ", body="<html><style>p {color: red}</style><p>&nbsp;</p></html>")

    answers = predict(triage, engine, [mails[0], empty, mails[1]])

    assert [answer.id for answer in answers] == [mails[0].id, "empty", mails[1].id]
    assert answers[1].decoded.decision == "review"


def test_no_mails_give_no_answers(triage: Triage, engine: OnnxEngine) -> None:
    assert predict(triage, engine, []) == []


def test_surrogates_and_null_bytes_do_not_stop_a_batch(triage: Triage, engine: OnnxEngine) -> None:
    strange = Email(id="strange", subject="Depot\ud800", body="Bitte \x00 um Rückruf \udfff zum Depotübertrag")

    assert predict(triage, engine, [strange])[0].id == "strange"


def test_the_custodian_bank_reaches_the_model(triage: Triage) -> None:
    mail = Email(id="1", subject="Frage", body="Wann kommt mein Übertrag an?")
    with_bank = dataclasses.replace(mail, custodian_bank="Nordkap Depotbank")

    first, second = triage.prepare([mail, with_bank]).input_ids

    assert len(second) > len(first)
    assert model_text("Frage", "Text", "Bank") == ("Bank: Frage", "Text")


def test_long_mails_are_cut_at_the_limit(bundle_path: Path) -> None:
    tokenizer = MailTokenizer(bundle_path / "tokenizer.json", max_tokens=24)

    (ids,) = tokenizer.encode([("Betreff", "Wort " * 500)])

    assert len(ids) == 24


def test_padding_keeps_the_ids_and_masks_the_rest() -> None:
    ids, mask = pad([np.array([5, 6, 7], dtype=np.int32), np.array([8], dtype=np.int32)])

    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
