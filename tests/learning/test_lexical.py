"""The lexical heads: features as scikit-learn computes them, logits as its SVM gives them, their part in a model."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mailtriage import lexical
from mailtriage.config import TrainingConfig
from mailtriage.encoders import quiet_transformers
from mailtriage.examples import Example
from mailtriage.features import TokenIds, pad
from mailtriage.fitting import Tokenised, predict_logits, prepare
from mailtriage.lexical import LexicalHeads, fit_lexical, fit_scales
from mailtriage.metrics import UNLABELLED
from mailtriage.model import MultiTaskClassifier
from mailtriage.taxonomy import Taxonomy
from mailtriage.training import answer_together

VOCABULARY = 60
LABELS = {"colour": 3, "size": 2}


@pytest.fixture(scope="module")
def rows() -> list[TokenIds]:
    """Mails of 2 to 30 tokens; tokens below 10 tell the colour, and 20 before 21 the size."""
    random = np.random.default_rng(5)
    made = []
    for number in range(300):
        words = random.integers(25, VOCABULARY, random.integers(0, 26))
        order = [20, 21] if number % 2 else [21, 20]
        made.append(np.array([number % 3, *order, *words, number % 3], dtype=np.int32))
    return made


@pytest.fixture(scope="module")
def targets() -> np.ndarray:
    return np.array([[number % 3, number % 2] for number in range(300)])


@pytest.fixture(scope="module")
def heads(rows: list[TokenIds], targets: np.ndarray) -> LexicalHeads:
    return fit_lexical(rows, targets, LABELS, VOCABULARY, seed=1)


def test_features_are_the_ones_of_scikit_learn(heads: LexicalHeads, rows: list[TokenIds]) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=lambda mail: mail.tolist(), sublinear_tf=True, min_df=lexical.MIN_MAILS)
    expected = vectorizer.fit_transform(rows).toarray()

    found = lexical._features(heads, rows).toarray()

    np.testing.assert_allclose(found[:, list(vectorizer.get_feature_names_out())], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.sqrt(2), atol=1e-5)  # two blocks of length 1


def test_it_learns_what_single_tokens_say_and_what_only_their_order_says(
    heads: LexicalHeads, rows: list[TokenIds], targets: np.ndarray
) -> None:
    found = heads.answers(rows)

    for column, task in enumerate(LABELS):
        assert (found[task].argmax(axis=1) == targets[:, column]).mean() > 0.99


def test_padding_and_neighbours_change_nothing(heads: LexicalHeads, rows: list[TokenIds]) -> None:
    together = heads(*map(torch.from_numpy, pad(rows[:40])))

    for row in (0, 7, 39):
        alone = heads(*map(torch.from_numpy, pad([rows[row]])))
        for task in LABELS:
            torch.testing.assert_close(alone[task][0], together[task][row], atol=1e-5, rtol=1e-5)


def test_missing_labels_are_left_out_and_a_label_without_mails_is_never_the_answer(rows: list[TokenIds]) -> None:
    targets = np.array([[[0, UNLABELLED, 2][number % 3], 1] for number in range(300)])

    found = fit_lexical(rows, targets, LABELS, VOCABULARY, seed=1).answers(rows)

    known = targets[:, 0] != UNLABELLED
    assert (found["colour"].argmax(axis=1)[known] == targets[known, 0]).mean() > 0.99
    assert not (found["colour"].argmax(axis=1) == 1).any()
    assert (found["size"].argmax(axis=1) == 1).all()  # the only label that there is


def test_scales_weigh_the_part_that_knows_more() -> None:
    random = np.random.default_rng(3)
    true = random.integers(0, 4, 500)
    knows = np.eye(4)[true] * 2 + random.normal(size=(500, 4))
    guesses = random.normal(size=(500, 4))

    assert fit_scales(knows, guesses, true)[1] == pytest.approx(0, abs=0.15)
    encoder, other = fit_scales(guesses, knows, true)
    assert encoder == pytest.approx(0, abs=0.15)
    assert other > 1
    assert fit_scales(knows, guesses, np.full(500, UNLABELLED)) == (1.0, 0.0)


def test_where_parts_err_on_different_mails_both_count_and_more_is_right() -> None:
    random = np.random.default_rng(4)
    true = random.integers(0, 4, 2000)
    parts = [np.eye(4)[true] + random.normal(size=(2000, 4)) for _ in range(2)]

    scales = fit_scales(parts[0], parts[1], true)

    right = [(logits.argmax(axis=1) == true).mean() for logits in (*parts, scales[0] * parts[0] + scales[1] * parts[1])]
    assert scales[0] == pytest.approx(scales[1], rel=0.2)
    assert right[2] > max(right[:2]) + 0.05


@pytest.fixture
def prepared(
    tiny_config: TrainingConfig, taxonomy: Taxonomy, examples: list[Example], tmp_path: Path
) -> SimpleNamespace:
    model, train, validation = prepare(tiny_config, taxonomy, examples[:160], examples[160:220], tmp_path)
    return SimpleNamespace(config=tiny_config, model=model, train=train, validation=validation)


def test_the_model_answers_with_both_parts_also_after_saving(prepared: SimpleNamespace, tmp_path: Path) -> None:
    config, model, validation = prepared.config, prepared.model, prepared.validation
    logits, scales, alone = answer_together(model, prepared.train, validation, config)

    assert set(alone) == {"encoder", "lexical heads"}
    assert np.mean(list(alone["lexical heads"].values())) > 0.3  # chance: 0.1
    assert all(lexical > 0 for _encoder, lexical in scales.values())
    with quiet_transformers():
        model.save_pretrained(tmp_path / "model")
    for same in (model, MultiTaskClassifier.from_pretrained(tmp_path / "model")):
        found = predict_logits(same, validation.input_ids, config)
        for task, expected in logits.items():
            np.testing.assert_allclose(found[task], expected, atol=1e-4)


def test_without_lexical_heads_the_encoder_answers_alone(prepared: SimpleNamespace) -> None:
    before = predict_logits(prepared.model, prepared.validation.input_ids, prepared.config)
    config = prepared.config.model_copy(update={"lexical": False})

    logits, scales, alone = answer_together(prepared.model, prepared.train, prepared.validation, config)

    assert (scales, alone, prepared.model.lexical) == ({}, {}, None)
    for task, expected in before.items():
        np.testing.assert_array_equal(logits[task], expected)


def test_the_same_mails_give_the_same_heads(prepared: SimpleNamespace) -> None:
    train: Tokenised = prepared.train
    labels, size = prepared.model.config.labels, prepared.model.encoder.config.vocab_size

    first, second = (fit_lexical(train.input_ids, train.targets, labels, size, seed=1) for _ in range(2))

    for name, values in first.state_dict().items():
        assert torch.equal(values, second.state_dict()[name])
