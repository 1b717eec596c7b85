"""What training minimises, against the formulas of its sources written out."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from mailtriage.config import TrainingConfig
from mailtriage.losses import LOSS_FLOOR, Objective, disagreement
from mailtriage.metrics import UNLABELLED

LABELS = {"a": 3, "b": 2}
TARGETS = np.array([[0, 1], [0, 0], [0, UNLABELLED], [1, 1], [2, 1]])


def _objective(**settings: object) -> Objective:
    return Objective.of(TrainingConfig(**settings), LABELS, TARGETS)


@pytest.fixture
def logits() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {task: torch.randn(len(TARGETS), n, generator=generator, requires_grad=True) for task, n in LABELS.items()}


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.from_numpy(TARGETS)


def test_missing_labels_are_masked_not_guessed(logits, targets):
    _objective()(logits, targets).backward()

    assert logits["b"].grad[2].abs().sum() == 0
    assert logits["a"].grad[2].abs().sum() > 0


@pytest.mark.parametrize("weighting", ["equal", "uncertainty"])
def test_a_task_without_any_label_in_a_batch_moves_nothing(logits, weighting):
    loss = _objective(task_weighting=weighting)(logits, torch.full((5, 2), UNLABELLED))
    loss.backward()

    assert loss == 0
    assert logits["a"].grad.abs().sum() == 0


def test_plain_loss_is_the_mean_of_the_cross_entropies(logits, targets):
    expected = (cross_entropy(logits["a"], targets[:, 0]) + cross_entropy(logits["b"], targets[:, 1])) / 2

    assert _objective()(logits, targets).item() == pytest.approx(expected.item())


def test_logit_adjustment_adds_the_log_of_the_label_shares(logits, targets):
    shares = torch.tensor([4.0, 2.0, 2.0]) / 8  # each count one larger, so that a label without mails has a share

    expected = cross_entropy(logits["a"] + shares.log(), targets[:, 0])

    assert _objective(imbalance="logit_adjustment").task_losses(logits, targets)[0].item() == pytest.approx(
        expected.item()
    )


def test_class_weights_are_those_of_a_balanced_mean(logits, targets):
    weights = torch.tensor([8 / (3 * 4.0), 8 / (3 * 2.0), 8 / (3 * 2.0)])

    expected = cross_entropy(logits["a"], targets[:, 0], weight=weights)

    assert _objective(imbalance="class_weights").task_losses(logits, targets)[0].item() == pytest.approx(
        expected.item()
    )


def test_focal_loss_is_that_of_lin_et_al(logits, targets):
    log_p = log_softmax(logits["b"], dim=1)[[0, 1, 3, 4], [1, 0, 1, 1]]

    expected = (-((1 - log_p.exp()) ** 2) * log_p).mean()

    assert _objective(imbalance="focal").task_losses(logits, targets)[1].item() == pytest.approx(expected.item())


def test_uncertainty_weighting_has_the_gradient_of_kendall_et_al_at_the_best_variances():
    losses = torch.tensor([0.4, 2.5], requires_grad=True)
    Objective(weighting="uncertainty").combine(losses, torch.tensor([True, True])).backward()
    ours = losses.grad.clone()

    losses.grad = None
    log_s = torch.log(2 * (losses.detach() + LOSS_FLOOR)).requires_grad_()
    ((losses + LOSS_FLOOR) * torch.exp(-log_s) + log_s / 2).sum().backward()

    assert log_s.grad.abs().max() < 1e-6  # the variances are at their optimum
    assert torch.allclose(ours, losses.grad)


def test_r_drop_adds_the_divergence_of_two_readings_both_ways(targets):
    generator = torch.Generator().manual_seed(9)
    twice = {task: torch.randn(2 * len(TARGETS), n, generator=generator) for task, n in LABELS.items()}
    alpha = 3.0

    def per_task(values, target):
        readings = values.chunk(2)
        nll = sum(cross_entropy(reading, target, ignore_index=UNLABELLED, reduction="mean") for reading in readings)
        p, q = (log_softmax(reading, dim=1) for reading in readings)
        both_ways = kl_div(q, p, log_target=True, reduction="none") + kl_div(p, q, log_target=True, reduction="none")
        return nll + alpha * both_ways.sum(dim=1).mean() / 2  # equations 2 to 4 of the paper, a mean over the mails

    expected = sum(per_task(twice[task], targets[:, i]) for i, task in enumerate(LABELS)) / 2  # two tasks

    assert 2 * _objective(r_drop=alpha / 2)(twice, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_equal_readings_do_not_disagree():
    once = torch.randn(4, 3)

    assert disagreement(once.repeat(2, 1), 4).item() == pytest.approx(0, abs=1e-7)
    assert disagreement(torch.cat([once, once.flip(1)]), 4).item() > 0.01


@pytest.mark.parametrize("samples", [2, 3])
def test_readings_are_compared_with_each_other_in_each_sample_of_dropout(samples):
    first, second = torch.randn(4, 3, generator=torch.Generator().manual_seed(2)), torch.randn(4, 3)
    alike = torch.cat([torch.cat([n * first, n * first]) for n in range(1, samples + 1)])
    apart = torch.cat([first, second]).repeat(samples, 1)

    assert disagreement(alike, 4).item() == pytest.approx(0, abs=1e-6)
    assert disagreement(apart, 4).item() == pytest.approx(disagreement(torch.cat([first, second]), 4).item(), rel=1e-5)


def test_multi_sample_dropout_averages_the_losses_of_its_masks(targets):
    generator = torch.Generator().manual_seed(9)
    thrice = {task: torch.randn(3 * len(TARGETS), n, generator=generator) for task, n in LABELS.items()}
    samples = [{task: values.chunk(3)[i] for task, values in thrice.items()} for i in range(3)]

    expected = np.mean([_objective()(sample, targets).item() for sample in samples])

    assert _objective()(thrice, targets).item() == pytest.approx(expected, rel=1e-5)
