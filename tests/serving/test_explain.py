"""The words that decided: against Captum on the torch model, and over the route."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mailtriage.bundle import Bundle
from mailtriage.engines import OnnxEngine, TorchEngine
from mailtriage.explanation import MOST_GROUPS, explain
from mailtriage.features import pad
from mailtriage.inference import Triage
from mailtriage.mail import Email

V1 = "/v1/models/mailtriage:explain"
MAIL = Email(
    "m-1", "Depotübertrag", "Bitte übertragen Sie mein Depot, die Dividende fehlt.", custodian_bank="Muster Bank"
)


@pytest.fixture(scope="module")
def bundle(bundle_path):
    return Bundle.open(bundle_path)


@pytest.fixture(scope="module")
def triage(bundle):
    return Triage.from_bundle(bundle)


class Counted:
    """An engine that remembers how many mails each of its passes had."""

    def __init__(self, engine) -> None:
        self.engine = engine
        self.passes: list[int] = []

    def forward(self, input_ids, attention_mask):
        self.passes.append(len(input_ids))
        return self.engine.forward(input_ids, attention_mask)


def captum_weights(bundle, triage, mail):
    """The same question asked of Captum: what each word's tokens are worth to the chosen label's probability."""
    from captum.attr import FeatureAblation

    from mailtriage.model import MultiTaskClassifier

    model = MultiTaskClassifier.from_pretrained(str(bundle.path / "model")).eval()
    prepared = triage.prepare([mail])
    segments = triage.segments(mail, prepared.cleaned[0])
    ids, words = triage.tokenizer.encode_words(*segments, mail.custodian_bank)
    features = np.zeros(len(ids), dtype=np.int64)
    for number, word in enumerate(words, start=1):
        features[word.tokens] = number

    def probabilities(input_ids):
        with torch.inference_mode():
            logits = model(input_ids, torch.ones_like(input_ids))
        found = triage.decoder.probabilities({task: values.numpy() for task, values in logits.items()})
        return {task: torch.from_numpy(values) for task, values in found.items()}

    given = torch.from_numpy(pad([ids])[0])
    whole = {task: values.numpy() for task, values in probabilities(given).items()}
    (chosen,) = triage.decoder.best_combinations(whole)
    weights = {}
    for task, label in zip(whole, chosen.tolist(), strict=True):
        ablation = FeatureAblation(lambda x, task=task, label=label: probabilities(x)[task][:, label])
        found = ablation.attribute(
            given, baselines=triage.tokenizer.mask_id, feature_mask=torch.from_numpy(features)[None]
        )
        weights[task] = {word.text: float(found[0, word.tokens.start]) for word in words}
    return weights


def test_weights_agree_with_captums_feature_ablation(bundle, triage):
    expected = captum_weights(bundle, triage, MAIL)

    found = explain(triage, TorchEngine(bundle, "cpu", 1), MAIL)

    assert set(found.words) == set(bundle.taxonomy.task_ids)
    for task, words in found.words.items():
        assert len(words) == min(10, len(expected[task]))
        assert [abs(word.weight) for word in words] == sorted((abs(word.weight) for word in words), reverse=True)
        for word in words:
            assert word.weight == pytest.approx(expected[task][word.word], abs=1e-4)
        heaviest = max(expected[task].values(), key=abs)
        assert words[0].weight == pytest.approx(heaviest, abs=1e-4)


def test_the_engine_that_serves_finds_about_the_same(bundle, triage):
    expected = captum_weights(bundle, triage, MAIL)

    found = explain(triage, OnnxEngine(bundle, 1), MAIL)

    for task, words in found.words.items():
        for word in words:
            assert word.weight == pytest.approx(expected[task][word.word], abs=0.05)


def test_words_are_those_of_the_cleaned_mail_with_their_parts(bundle, triage):
    found = explain(triage, OnnxEngine(bundle, 1), MAIL)

    parts = {(word.word, word.part) for words in found.words.values() for word in words}
    assert parts <= {
        *(("Muster", "custodian_bank"), ("Bank:", "custodian_bank"), ("Depotübertrag", "subject")),
        *((word, "body") for word in MAIL.body.split()),
    }
    assert ("Depotübertrag", "subject") in parts


def test_a_long_mail_takes_two_bounded_rounds(bundle, triage, taxonomy):
    long = Email("m-2", "Frage", " ".join(f"Wort{number} eins" for number in range(200)))
    engine = Counted(OnnxEngine(bundle, 1))

    found = explain(triage, engine, long)

    assert len(engine.passes) <= 2
    assert all(mails <= MOST_GROUPS + 1 for mails in engine.passes)
    assert all(words for words in found.words.values())


def test_nothing_left_needs_no_engine(triage):
    found = explain(triage, None, Email("m-3", "", "<style>p {}</style>"))

    assert found.prediction.decoded.decision == "review"
    assert all(words == () for words in found.words.values())


def test_the_route_explains_in_order_and_in_place(stack, bundle):
    records = [MAIL.to_record(), {"id": "x"}, {"id": "m-2", "body": "Wo bleibt meine Dividende?"}]

    with stack.client(**{"x-request-id": "explain-me"}) as client:
        answer = client.post(V1, json={"instances": records})

    first, unusable, second = answer.json()["explanations"]
    assert answer.status_code == 200
    assert [first["id"], second["id"]] == ["m-1", "m-2"]
    assert unusable["error"]["code"] == "no_text"
    assert {word["word"] for word in second["words"]["topic"]} <= set("Wo bleibt meine Dividende?".split())
    assert bundle.taxonomy.is_valid({task: score["label"] for task, score in first["labels"].items()})
    assert "x-client-id" not in answer.headers  # KServe's own route answers with the request's headers
    assert "Dividende" not in stack.logs_when("transformer", "explain-me")


def test_more_than_eight_mails_are_413_with_the_limit(stack):
    with stack.client() as client:
        answer = client.post(V1, json={"instances": [MAIL.to_record()] * 9})

    assert answer.status_code == 413
    assert answer.json()["error"] == answer.json()["error"] | {"code": "too_many_mails", "limit": 8}
