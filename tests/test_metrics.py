import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from mailtriage import metrics

LABELS = ("transfer", "dividend", "fees", "complaint")


@pytest.fixture
def answers():
    rng = np.random.default_rng(3)
    true = rng.choice(4, size=400, p=[0.6, 0.25, 0.1, 0.05])
    predicted = np.where(rng.random(400) < 0.75, true, rng.integers(0, 4, size=400))
    return true, predicted


def test_scores_agree_with_scikit_learn(answers):
    true, predicted = answers
    entry = metrics.classification(LABELS, true, predicted)
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(true, predicted)
    for position, label in enumerate(LABELS):
        assert entry["labels"][label]["precision"] == pytest.approx(precision[position], abs=1e-4)
        assert entry["labels"][label]["recall"] == pytest.approx(recall[position], abs=1e-4)
        assert entry["labels"][label]["f1"] == pytest.approx(f1[position], abs=1e-4)
        assert entry["labels"][label]["support"] == support[position]
    assert entry["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(true, predicted), abs=1e-4)
    assert entry["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(true, predicted, average="macro"), abs=1e-4)
    assert entry["weighted_f1"] == pytest.approx(
        sklearn_metrics.f1_score(true, predicted, average="weighted"), abs=1e-4
    )
    assert entry["precision"] == pytest.approx(precision.mean(), abs=1e-4)
    assert entry["recall"] == pytest.approx(recall.mean(), abs=1e-4)
    assert entry["support"] == 400


def test_macro_average_takes_the_labels_that_occur_as_scikit_learn_does():
    true = np.array([0, 0, 1, 1])
    predicted = np.array([0, 2, 1, 1])
    expected = sklearn_metrics.f1_score(true, predicted, average="macro", zero_division=0)
    assert metrics.macro_f1(4, true, predicted) == pytest.approx(expected)
    entry = metrics.classification(LABELS, true, predicted)
    assert entry["labels"]["complaint"] | {"intervals": None} == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 0,
        "intervals": None,
    }


def test_unlabelled_mails_count_nowhere(answers):
    true, predicted = answers
    masked = true.copy()
    masked[:100] = metrics.UNLABELLED
    assert metrics.classification(LABELS, masked, predicted) == metrics.classification(
        LABELS, true[100:], predicted[100:]
    )


def test_a_task_without_any_labelled_mail_scores_zero_without_a_warning():
    entry = metrics.classification(LABELS, np.full(5, metrics.UNLABELLED), np.zeros(5, dtype=int))
    assert entry["support"] == 0
    assert entry["macro_f1"] == 0.0
    assert "intervals" not in entry


def test_bootstrap_intervals_cover_the_true_value_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        true = rng.integers(0, 2, size=300)
        predicted = np.where(rng.random(300) < 0.8, true, 1 - true)
        low, high = metrics.classification(("a", "b"), true, predicted, seed=trial)["intervals"]["accuracy"]
        covered += low <= 0.8 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_bootstrap_interval_is_the_same_as_resampling_the_mails(answers):
    true, predicted = answers
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(true), size=(2000, len(true)))
    resampled = [metrics.macro_f1(4, true[pick], predicted[pick]) for pick in picks]
    low, high = metrics.classification(LABELS, true, predicted, samples=4000)["intervals"]["macro_f1"]
    assert low == pytest.approx(np.quantile(resampled, 0.025), abs=0.01)
    assert high == pytest.approx(np.quantile(resampled, 0.975), abs=0.01)


def test_exact_match_needs_every_label_right_and_known():
    true = {"queue": np.array([0, 1, 1, metrics.UNLABELLED]), "topic": np.array([0, 0, 1, 1])}
    predicted = {"queue": np.array([0, 1, 0, 0]), "topic": np.array([0, 1, 1, 1])}
    assert metrics.exact_match(true, predicted) == {"exact_match": pytest.approx(1 / 3, abs=1e-4), "support": 3}


def test_invalid_share_counts_combinations_that_the_taxonomy_lacks():
    predicted = {"queue": np.array([0, 0, 1, 1]), "topic": np.array([0, 1, 0, 1])}
    assert metrics.invalid_share(predicted, np.array([[0, 0], [1, 1], [1, 0]])) == 0.25


def test_calibration_error_of_a_known_gap():
    confidence = np.full(100, 0.9)
    correct = np.arange(100) < 70
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(0.2)
    assert metrics.reliability(confidence, correct) == [
        {"confidence": pytest.approx(0.9), "accuracy": pytest.approx(0.7), "mails": 100}
    ]


def test_calibration_error_weighs_bins_by_mails_and_keeps_the_ends():
    confidence = np.array([0.0, 1.0, 1.0, 1.0])
    correct = np.array([False, True, True, False])
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(0.25)


def test_chance_makes_as_much_calibration_error_as_its_interval_says():
    rng = np.random.default_rng(4)
    confidence = rng.beta(3, 2, size=500)
    low, high = metrics.calibration_error_by_chance(confidence)
    errors = [metrics.expected_calibration_error(confidence, rng.random(500) < confidence) for _ in range(400)]
    assert 0.92 <= np.mean([low <= error <= high for error in errors]) <= 0.98
    assert metrics.expected_calibration_error(confidence, rng.random(500) < confidence - 0.1) > high
    few, many = (metrics.calibration_error_by_chance(np.tile(confidence, times))[1] for times in (1, 16))
    assert few / many == pytest.approx(4, rel=0.25)  # chance errors shrink with the root of the mails
    assert metrics.calibration_error_by_chance(np.zeros(0)) == [0.0, 0.0]


def test_routing_counts_coverage_and_precision():
    accepted = np.array([True, True, True, False])
    correct = np.array([True, True, False, True])
    result = metrics.routing(accepted, correct)
    assert result["coverage"] == 0.75
    assert result["precision"] == pytest.approx(2 / 3, abs=1e-4)
    assert result["interval"][0] < 2 / 3 < result["interval"][1]
    assert (result["routed"], result["mails"]) == (3, 4)


def test_routing_without_a_routed_mail_has_no_precision():
    result = metrics.routing(np.zeros(3, dtype=bool), np.ones(3, dtype=bool))
    assert result["coverage"] == 0.0
    assert result["precision"] is None


def test_wilson_interval_of_a_published_example():
    assert metrics.wilson_interval(15, 148) == (pytest.approx(0.0624, abs=1e-4), pytest.approx(0.1605, abs=1e-4))


def test_coverage_curve_ends_at_all_mails_with_the_accuracy():
    confidence = np.array([0.9, 0.5, 0.5, 0.8])
    correct = np.array([True, False, True, True])
    coverage, precision = metrics.coverage_curve(confidence, correct)
    assert coverage.tolist() == [0.25, 0.5, 1.0]
    assert precision.tolist() == [1.0, 1.0, 0.75]


def test_slices_are_ordered_by_size_and_scored_alone():
    true = {"queue": np.array([0, 1, 0])}
    predicted = {"queue": np.array([0, 1, 1])}
    result = metrics.slice_scores(["en", "de", "de"], {"queue": 2}, true, predicted)
    assert list(result) == ["de", "en"]
    assert result["de"] == {"mails": 2, "queue": {"accuracy": 0.5, "macro_f1": pytest.approx(0.3333, abs=1e-4)}}
    assert result["en"]["queue"]["accuracy"] == 1.0
