"""The limit for clients is not the predictor's: a short request may need many bytes of tensors."""

from __future__ import annotations

import numpy as np
import pytest

from mailtriage.bundle import Bundle
from serving.predictor import body_limit
from serving.predictor_client import _encode
from serving.routes import CHUNK_MAILS

MAX_BODY = 20_000


@pytest.mark.parametrize("max_tokens", [96, 512, 8_192, 65_536, 131_072])
def test_the_predictor_takes_the_largest_chunk_of_its_transformer(max_tokens):
    row = np.broadcast_to(np.ones(1, dtype=np.int64), (CHUNK_MAILS, max_tokens))
    _, body = _encode({"input_ids": row, "attention_mask": row}, 30_000)

    assert len(body) <= body_limit(max_tokens)


def test_what_the_gateway_lets_through_is_answered_however_small_its_limit(own_stack, bundle_path):
    served = own_stack("--max-body", str(MAX_BODY))
    mails = [{"id": f"m-{number}", "body": "Bitte um Rückruf."} for number in range(CHUNK_MAILS - 1)]
    mails.append({"id": "long", "body": "Wo bleibt meine Dividende? " * 100})
    tensors = 2 * CHUNK_MAILS * int(Bundle.open(bundle_path).manifest["max_tokens"]) * 8
    assert tensors > MAX_BODY  # or this test says nothing

    answers = served.predict(mails)
    with served.client() as client:
        refused = client.post("/v1/models/mailtriage:predict", json={"instances": mails * 20})

    assert [answer["id"] for answer in answers] == [mail["id"] for mail in mails]
    assert all("labels" in answer for answer in answers)
    assert refused.status_code == 413
    assert refused.json()["error"]["limit"] == MAX_BODY
