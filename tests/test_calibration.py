"""Calibration and thresholds, on draws whose truth is known."""

import math

import numpy as np
import pytest

from mailtriage.calibration import fit_temperature, negative_log_likelihood
from mailtriage.config import TrainingConfig
from mailtriage.decoding import Decoder
from mailtriage.errors import ConfigError
from mailtriage.metrics import UNLABELLED, expected_calibration_error, macro_f1
from mailtriage.taxonomy import Taxonomy
from mailtriage.thresholds import compile_threshold, compile_thresholds, limits, looks

TWO_TASKS = Taxonomy.parse("{version: 1, tasks: {a: {labels: {p: , q: , r: }}, b: {labels: {s: , t: , u: }}}}")


def _draw(mails: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `temperature` times too large for the labels drawn from them."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 2, (mails, 6))
    probabilities = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    labels = np.array([random.choice(6, p=row) for row in probabilities])
    return (honest * temperature).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_applied_is_found(temperature: float) -> None:
    logits, labels = _draw(6000, temperature)

    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.06)


def test_calibration_lowers_likelihood_loss_and_calibration_error() -> None:
    logits, labels = _draw(4000, 3.0)
    calibrated = logits / fit_temperature(logits, labels)

    assert negative_log_likelihood(calibrated, labels) < negative_log_likelihood(logits, labels)
    assert _ece(calibrated, labels) < 0.03 < _ece(logits, labels)


def test_mails_without_a_label_do_not_count() -> None:
    logits, labels = _draw(3000, 2.0)
    masked = np.concatenate([labels, np.full(3000, UNLABELLED)])

    assert fit_temperature(np.concatenate([logits, -logits]), masked) == fit_temperature(logits, labels)
    assert fit_temperature(logits, np.full(3000, UNLABELLED)) == 1.0


def test_a_threshold_keeps_its_promise_on_new_mails_as_often_as_it_says() -> None:
    kept = found = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        confidence = random.uniform(0.3, 1.0, 800)
        correct = random.uniform(size=800) < confidence
        threshold = compile_threshold(confidence, correct, precision=0.9, certainty=0.9)
        found += threshold is not None
        kept += threshold is None or (threshold + 1.0) / 2 >= 0.9  # the true precision above a threshold of this draw
    assert found >= 0.4 * 60
    assert kept >= 0.85 * 60


def test_no_threshold_is_better_than_an_unproven_one() -> None:
    few = np.full(10, 0.99)

    assert compile_threshold(few, np.ones(10, dtype=bool), 0.95, 0.9) is None
    assert compile_threshold(np.full(500, 0.9), np.arange(500) % 2 == 0, 0.95, 0.9) is None


@pytest.mark.parametrize("precision", [0.8, 0.9, 0.95])
def test_few_mails_prove_something_or_nothing_but_have_an_answer(precision: float) -> None:
    least = math.ceil(math.log(0.1) / math.log(precision))  # right answers in a row that one look would need
    proven = [
        compile_threshold(np.linspace(0.9, 0.1, mails), np.ones(mails, dtype=bool), precision, 0.9) is not None
        for mails in range(2, 5 * least)
    ]

    assert not any(proven[: least - 2])
    assert proven[least - 2]
    assert all(proven[3 * least :])


@pytest.mark.parametrize("mails", [240, 1000])
@pytest.mark.parametrize("precision", [0.8, 0.95])
def test_answers_that_are_right_a_hair_too_seldom_prove_a_promise_in_one_draw_of_ten(
    mails: int, precision: float
) -> None:
    random = np.random.default_rng(mails)
    draws = 600
    confidence = np.linspace(1, 0.5, mails)

    proven = sum(
        compile_threshold(confidence, random.uniform(size=mails) < precision - 1e-6, precision, 0.9) is not None
        for _ in range(draws)
    )

    assert 0.05 * draws <= proven <= 0.137 * draws  # 0.1 and three standard deviations; not idle either


@pytest.mark.parametrize("mails", [240, 1200])
def test_a_threshold_beyond_the_last_good_mail_is_as_rare_where_the_surest_mails_are_wrong(mails: int) -> None:
    random = np.random.default_rng(5)
    rank = np.linspace(0, 1, 100_001)[1:]
    true = np.cumsum(_sure_and_wrong(rank)) / np.arange(1, len(rank) + 1)
    false = covered = 0.0
    for _ in range(200):
        drawn = np.sort(random.uniform(size=mails))
        threshold = compile_threshold(1 - drawn, random.uniform(size=mails) < _sure_and_wrong(drawn), 0.85, 0.9)
        if threshold is not None:
            false += np.interp(1 - threshold, rank, true) < 0.85
            covered += float((1 - drawn >= threshold).mean()) / 200

    assert false <= 0.1 * 200
    assert covered > 0.6  # a test that stops at its first failure proves nothing here


def test_a_few_hundred_mails_prove_the_promise_of_production_where_the_model_is_good() -> None:
    random = np.random.default_rng(3)
    found = 0
    for _ in range(50):
        rank = np.sort(random.uniform(size=240))
        right = random.uniform(size=240) < 1 - 0.9 * rank**3
        found += compile_threshold(1 - rank, right, 0.95, 0.9) is not None

    assert found >= 40  # the fixed grid that stood here before proved it in a quarter of the draws


def test_mails_that_are_equally_sure_stay_together() -> None:
    confidence = np.repeat([0.99, 0.9, 0.8], [100, 50, 50])

    assert looks(confidence, 0.95, 0.9) == (100, 150, 200)
    assert compile_threshold(confidence, np.repeat([True, False], [100, 100]), 0.95, 0.9) == 0.99


def test_limits_allow_the_stated_chance_over_all_looks_together() -> None:
    ranks = (50, 80, 120, 240)
    most = np.array(limits(ranks, 0.95, 0.9))
    wrong = np.random.default_rng(1).uniform(size=(40_000, 240)) > 0.95

    within = (wrong.cumsum(axis=1)[:, np.array(ranks) - 1] <= most).any(axis=1).mean()

    assert 0.05 < within <= 0.104


def _sure_and_wrong(rank: np.ndarray) -> np.ndarray:
    return np.where(rank < 0.1, 0.85 - 0.02, 1 - 0.7 * np.maximum(rank - 0.1, 0) ** 2)


def _ece(logits: np.ndarray, labels: np.ndarray) -> float:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponent / exponent.sum(axis=1, keepdims=True)
    return expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)


def test_a_routed_mail_is_right_as_often_as_promised_and_a_promise_a_task_is_weaker() -> None:
    population = _mails(40_000, seed=999)
    kept = {"mail": 0, "task": 0}
    covered = []
    for seed in range(60):
        logits, targets = _mails(700, seed)
        for promise in kept:
            config = TrainingConfig(route_promise=promise, route_precision=0.95, route_confidence=0.9)
            routing = compile_thresholds(config, Decoder(TWO_TASKS), logits, targets)
            routed, right = _routed(Decoder(TWO_TASKS, thresholds=routing["thresholds"]), *population)
            kept[promise] += not routed.any() or right[routed].mean() >= 0.95
            covered.append(routed.mean())

    assert kept["mail"] >= 0.85 * 60  # 0.9, less what 60 draws may deviate
    assert kept["task"] < 0.5 * 60
    assert np.mean(covered) > 0.3


def test_the_promise_holds_where_the_same_mails_chose_the_temperature_and_the_best_of_eight_models() -> None:
    population, truth = _models(20_000, seed=999)
    kept, covered = 0, []
    for seed in range(60):
        models, targets = _models(700, seed)
        best = max(range(len(models)), key=lambda number: _mean_macro_f1(models[number], targets))
        temperatures = {task: fit_temperature(models[best][task], targets[:, "ab".index(task)]) for task in "ab"}
        config = TrainingConfig(route_precision=0.9, route_confidence=0.9)
        compiled = compile_thresholds(config, Decoder(TWO_TASKS, temperatures), models[best], targets)
        decoder = Decoder(TWO_TASKS, temperatures, compiled["thresholds"])
        routed, right = _routed(decoder, population[best], truth)
        kept += not routed.any() or right[routed].mean() >= 0.9
        covered.append(routed.mean())

    assert kept >= 0.85 * 60  # 0.9, less what 60 draws may deviate
    assert np.mean(covered) > 0.25


def test_a_promise_a_label_is_compiled_and_kept_for_each_label_alone() -> None:
    logits, targets = _mails_of_a_label_too_many(40_000, seed=999)
    probabilities = Decoder(TWO_TASKS).probabilities(logits)
    found = kept = 0
    for seed in range(30):
        config = TrainingConfig(route_promise="label", route_precision=0.9, route_confidence=0.9)
        compiled = compile_thresholds(config, Decoder(TWO_TASKS), *_mails_of_a_label_too_many(1500, seed))["thresholds"]
        assert {task: set(labels) for task, labels in compiled.items()} == {"a": set("pqr"), "b": set("stu")}
        for task, label in ("a", "p"), ("b", "u"):
            number, least = "pqrstu".index(label) % 3, compiled[task][label]
            given = probabilities[task].argmax(axis=1) == number
            routed = given & (probabilities[task].max(axis=1) >= (np.inf if least is None else least))
            found += least is not None
            kept += not routed.any() or (targets[routed, "ab".index(task)] == number).mean() >= 0.9

    assert found >= 0.8 * 60
    assert kept >= 0.85 * 60  # 0.9, less what 60 draws may deviate; one threshold a task keeps it for half of them


def test_the_mails_a_day_that_are_left_for_people_stand_beside_the_thresholds() -> None:
    logits, targets = _mails(2000, seed=4)
    settings = {"route_promise": "mail", "route_precision": 0.9}

    without = compile_thresholds(TrainingConfig(**settings), Decoder(TWO_TASKS), logits, targets)
    compiled = compile_thresholds(TrainingConfig(**settings, mails_a_day=800), Decoder(TWO_TASKS), logits, targets)

    assert without["left_a_day"] is None
    assert 0.2 < compiled["expected_coverage"] < 0.8
    assert compiled["left_a_day"] == pytest.approx(800 * (1 - compiled["expected_coverage"]), abs=0.05)


def test_each_queue_can_have_a_threshold_of_its_own() -> None:
    logits, targets = _mails(6000, seed=1)
    targets[:, 0] = np.where(logits["a"].argmax(axis=1) == 2, 0, targets[:, 0])  # what is called r is never right

    routing = compile_thresholds(TrainingConfig(route_by="a"), Decoder(TWO_TASKS), logits, targets)

    assert routing["thresholds"]["mail"]["p"] is not None
    assert routing["thresholds"]["mail"]["r"] is None
    decoder = Decoder(TWO_TASKS, thresholds=routing["thresholds"], by="a")
    routed = [answer for answer in decoder.decode(logits) if answer.decision == "route"]
    assert {answer.labels["a"].label for answer in routed} == {"p", "q"}
    assert routing["expected_coverage"] == pytest.approx(len(routed) / 6000, abs=1e-4)


def test_a_threshold_by_no_task_is_refused() -> None:
    logits, targets = _mails(10, seed=1)

    with pytest.raises(ConfigError, match="one of a, b"):
        compile_thresholds(TrainingConfig(route_by="queue"), Decoder(TWO_TASKS), logits, targets)


def _mails(mails: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Logits of two tasks, and labels drawn from just those probabilities."""
    random = np.random.default_rng(seed)
    logits = {task: random.normal(0, 5, (mails, 3)).astype(np.float32) for task in "ab"}
    gumbel = {task: values + random.gumbel(size=values.shape) for task, values in logits.items()}
    return logits, np.stack([values.argmax(axis=1) for values in gumbel.values()], axis=1)


def _models(mails: int, seed: int, models: int = 8) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """As `_mails`, from models that are equally good, too sure by half, and wrong on other mails each."""
    honest, targets = _mails(mails, seed)
    noise = [np.random.default_rng([seed, number, 77]) for number in range(models)]
    return [
        {task: np.float32(2) * (values + random.normal(size=values.shape)) for task, values in honest.items()}
        for random in noise
    ], targets


def _mean_macro_f1(logits: dict[str, np.ndarray], targets: np.ndarray) -> float:
    scores = [macro_f1(3, targets[:, "ab".index(task)], values.argmax(axis=1)) for task, values in logits.items()]
    return float(np.mean(scores))


def _mails_of_a_label_too_many(mails: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """As `_mails`, but the model says `u` more surely than it should, so that its own threshold must be higher."""
    logits, targets = _mails(mails, seed)
    logits["b"][:, 2] += 4
    return logits, targets


def _routed(decoder: Decoder, logits: dict[str, np.ndarray], targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which mails are routed, and which have every label right; `Decoder.decode` for many mails at once."""
    probabilities = decoder.probabilities(logits)
    chosen, sure = decoder.joint(probabilities)
    found = {"mail": sure} | {task: values.max(axis=1) for task, values in probabilities.items()}
    least = {key: np.inf if value is None else value for key, value in decoder.thresholds.items()}
    return np.all([found[key] >= value for key, value in least.items()], axis=0), (chosen == targets).all(axis=1)
