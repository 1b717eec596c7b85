"""The goals that the benchmark measures, on our own mails and, where they are there, on the pairs of others."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mailtriage.cleaning import clean

ROOT = Path(__file__).parent.parent
PAIRS = ROOT.parent / "shared" / "data" / "mails" / "pairs.jsonl.gz"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cleaning_benchmark", ROOT / "benchmarks" / "cleaning.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def ours(body: str, subject: str) -> str:
    return clean(body, subject).text


def test_hardly_a_word_is_lost_on_our_own_mails(benchmark: ModuleType) -> None:
    score = benchmark.score("mailtriage", ours, list(benchmark.fixtures()))

    assert score.lost <= 0.002
    assert score.emptied == 0


def test_the_benchmark_counts_lost_and_foreign_words(benchmark: ModuleType) -> None:
    mail = benchmark.Mail("x", "eins zwei > drei", "", "eins zwei drei vier")

    score = benchmark.score("half", lambda body, subject: "eins zwei fünf sechs", [mail])

    assert (score.exact, score.lost, score.foreign, score.emptied, score.worst) == (0, 0.5, 0.5, 0, "x")
    assert benchmark.score("none", lambda body, subject: "", [mail]).emptied == 1


@pytest.mark.skipif(not PAIRS.exists(), reason="the pairs of other projects' test suites are not shipped")
def test_hardly_a_word_is_lost_on_the_pairs_of_others(benchmark: ModuleType) -> None:
    pairs = list(benchmark.pairs(PAIRS))
    wanted = [mail for mail in pairs if mail.id not in benchmark.CONTRADICTIONS]

    score = benchmark.score("mailtriage", ours, wanted)

    assert benchmark.CONTRADICTIONS.keys() <= {mail.id for mail in pairs}
    assert score.lost <= 0.01
    assert score.foreign <= 0.02
    assert score.exact >= 0.9 * len(wanted)
