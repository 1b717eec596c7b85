"""Batches under a token budget: nothing lost, nothing twice, little padding."""

import pytest

from mailtriage.batching import token_batches

LENGTHS = [5, 90, 12, 33, 64, 7, 8, 120, 41, 41, 3, 77] * 20


def test_every_mail_is_in_exactly_one_batch_within_the_budget() -> None:
    batches = token_batches(LENGTHS, 256, seed=1, epoch=0)

    assert sorted(position for batch in batches for position in batch) == list(range(len(LENGTHS)))
    assert all(len(batch) * max(LENGTHS[p] for p in batch) <= 256 for batch in batches)


def test_a_mail_longer_than_the_budget_gets_a_batch_of_its_own() -> None:
    batches = token_batches([500, 5, 5], 100, seed=1, epoch=0)

    assert [0] in batches


def test_little_is_padded() -> None:
    batches = token_batches(LENGTHS, 512, seed=1, epoch=0)

    padded = sum(len(batch) * max(LENGTHS[p] for p in batch) for batch in batches)
    assert sum(LENGTHS) / padded > 0.85


def test_an_epoch_is_repeatable_and_the_next_is_another() -> None:
    assert token_batches(LENGTHS, 256, seed=1, epoch=0) == token_batches(LENGTHS, 256, seed=1, epoch=0)
    assert token_batches(LENGTHS, 256, seed=1, epoch=0) != token_batches(LENGTHS, 256, seed=1, epoch=1)


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_workers_get_the_same_number_of_batches_without_duplicates(workers: int) -> None:
    batches = token_batches(LENGTHS, 256, seed=1, epoch=0, workers=workers)

    shards = [batches[rank::workers] for rank in range(workers)]
    assert len({len(shard) for shard in shards}) == 1
    assert sorted(p for shard in shards for batch in shard for p in batch) == list(range(len(LENGTHS)))


def test_more_workers_than_mails_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 workers"):
        token_batches([4, 4], 100, seed=1, epoch=0, workers=3)
