"""How much can be routed with a proven precision, by procedure: validity and power on draws whose truth is known.

    python benchmarks/thresholds.py [--draws 300] [--precision 0.95,0.85] [--output work/thresholds.json]

Each draw is a validation set of 240 to 5,000 mails, taken from a population that says how often the answer at each rank
of confidence is right. A procedure picks how many of the surest mails to route. Printed are the share of draws in which
the population's precision is below the promise (`false`, which must stay at or below 0.1) and the mean share of mails
routed in the others (`routed`).

`at the edge` is the worst case: every answer is right a hair too seldom, so that every claim is false.
`sure and wrong` breaks what most procedures rest on: the surest tenth is right less often than the next.
`no correction` is what not to do: the exact binomial test at each rank, and the best of them taken.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import binom

from mailtriage.metrics import Flags, Floats
from mailtriage.thresholds import compile_threshold, looks

CERTAINTY = 0.9
MAILS = (240, 600, 1200, 5000)
GRID = (0.995, 0.99, 0.98, 0.97, 0.95, 0.92, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
STARTS = 5
Procedure = Callable[[Floats, Flags, float], int]


def accuracy(profile: str, rank: Floats, precision: float) -> Floats:
    """How often the answer at a rank (0: the surest, 1: the least sure) is right."""
    return {
        "strong": 0.995 - 0.42 * np.maximum(rank - 0.5, 0),
        "fair": 1 - 0.5 * rank**1.5,
        "steep": 1 - 0.9 * rank**3,
        "weak": 0.97 - 0.6 * rank,
        "at the edge": np.full_like(rank, precision - 1e-6),
        "sure and wrong": np.where(rank < 0.1, 0.85, 1 - 0.7 * np.maximum(rank - 0.1, 0) ** 2),
    }[profile]


PROFILES = ("strong", "fair", "steep", "weak", "at the edge", "sure and wrong")


def ours(confidence: Floats, right: Flags, precision: float) -> int:
    threshold = compile_threshold(confidence, right, precision, CERTAINTY)
    return 0 if threshold is None else int((confidence >= threshold).sum())


def fallback_on_a_grid(confidence: Floats, right: Flags, precision: float) -> int:
    """Fixed confidences, the strictest first; a test that fails loses its share of the chance (Wiens 2003)."""
    routed = np.array([(confidence >= threshold).sum() for threshold in GRID])
    provable = routed >= math.log(1 - CERTAINTY) / math.log(precision)
    tested = np.flatnonzero(provable & (np.diff(routed, prepend=0) > 0))
    share, level, found = (1 - CERTAINTY) / max(len(tested), 1), 0.0, 0
    for count in routed[tested].tolist():
        level += share
        if _p_values(right, (count,), precision)[0] <= level:
            found = count
        else:
            level = 0.0
    return found


def fixed_sequence(confidence: Floats, right: Flags, precision: float) -> int:
    """From the fewest mails that prove anything, each with the whole chance, until one fails."""
    return _until_failure(looks(confidence, precision, CERTAINTY), right, precision, 1 - CERTAINTY)


def sequences_from_many_starts(confidence: Floats, right: Flags, precision: float) -> int:
    """Learn then Test (Angelopoulos et al. 2021, arXiv:2110.01052): five sequences that share the chance."""
    level = (1 - CERTAINTY) / STARTS
    ranks = looks(confidence, precision, 1 - level)
    starts = np.unique(np.linspace(0, len(ranks), STARTS, endpoint=False).astype(int)) if ranks else []
    return max((_until_failure(ranks[start:], right, precision, level) for start in starts), default=0)


def holm(confidence: Floats, right: Flags, precision: float) -> int:
    """All ranks tested, the surest proof first, with Bonferroni's correction stepped down (Holm 1979)."""
    ranks, found = looks(confidence, precision, CERTAINTY), 0
    values = _p_values(right, ranks, precision)
    for left, position in zip(range(len(ranks), 0, -1), np.argsort(values, kind="stable"), strict=True):
        if values[position] > (1 - CERTAINTY) / left:
            break
        found = max(found, ranks[position])
    return found


def split_in_two(confidence: Floats, right: Flags, precision: float) -> int:
    """Half of the mails choose where to start, by the surest proof; the other half are tested from there on down."""
    chosen, tested = np.arange(len(right)) % 2 == 0, np.arange(len(right)) % 2 == 1
    ranks = looks(confidence[chosen], precision, CERTAINTY)
    if not ranks:
        return 0
    start = ranks[int(np.argmin(_p_values(right[chosen], ranks, precision)))]
    later = tuple(rank for rank in looks(confidence[tested], precision, CERTAINTY) if rank >= start)
    return 2 * _until_failure(later, right[tested], precision, 1 - CERTAINTY)


def uniform_bound(confidence: Floats, right: Flags, precision: float) -> int:
    """At every rank at once: the bound of Dvoretzky, Kiefer and Wolfowitz with Massart's constant (1990).

    With `gain` = right - precision a mail, its sum over the surest mails is a difference of two distribution functions,
    each of which is known to within the bound with half of the chance.
    """
    mails = len(right)
    width = math.sqrt(math.log(2 / (1 - CERTAINTY)) / (2 * mails))
    share, shares = np.arange(1, mails + 1) / mails, np.cumsum(right) / mails
    proven = np.flatnonzero(shares - width >= precision * (share + width))
    return int(proven[-1]) + 1 if len(proven) else 0


def no_correction(confidence: Floats, right: Flags, precision: float) -> int:
    ranks = looks(confidence, precision, CERTAINTY)
    passed = _p_values(right, ranks, precision) <= 1 - CERTAINTY
    return max((rank for rank, proven in zip(ranks, passed, strict=True) if proven), default=0)


PROCEDURES: dict[str, Procedure] = {
    "group-sequential (ours)": ours,
    "fallback on a fixed grid": fallback_on_a_grid,
    "fixed sequence": fixed_sequence,
    "five sequences": sequences_from_many_starts,
    "Holm": holm,
    "split in two": split_in_two,
    "uniform bound (DKW)": uniform_bound,
    "no correction": no_correction,
}


def _p_values(right: Flags, ranks: tuple[int, ...], precision: float) -> Floats:
    wrong = np.cumsum(~right)
    return np.asarray(binom.cdf([wrong[rank - 1] for rank in ranks], ranks, 1 - precision))


def _until_failure(ranks: tuple[int, ...], right: Flags, precision: float, level: float) -> int:
    failed = np.flatnonzero(_p_values(right, ranks, precision) > level)
    passed = ranks[: failed[0]] if len(failed) else ranks
    return passed[-1] if passed else 0


def simulate(profile: str, mails: int, precision: float, draws: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """Procedure -> `false` and `routed`, as the head of this file says."""
    fine = np.linspace(0, 1, 20_001)[1:]
    true_precision = np.cumsum(accuracy(profile, fine, precision)) / np.arange(1, len(fine) + 1)
    random = np.random.default_rng([seed, mails])
    false, routed = dict.fromkeys(PROCEDURES, 0), dict.fromkeys(PROCEDURES, 0.0)
    for _ in range(draws):
        rank = np.sort(random.uniform(size=mails))
        probability = accuracy(profile, rank, precision)
        right = random.uniform(size=mails) < probability
        # For the fixed grid: what a calibrated model would say, made strictly falling so that order is by rank.
        confidence = np.minimum.accumulate(probability) - 1e-9 * rank
        for name, procedure in PROCEDURES.items():
            taken = procedure(confidence, right, precision)
            wrong = taken and np.interp(rank[taken - 1], fine, true_precision) < precision
            false[name] += bool(wrong)
            routed[name] += 0 if wrong else taken / mails
    return {name: {"false": false[name] / draws, "routed": routed[name] / draws} for name in PROCEDURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--precision", default="0.95,0.85")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    rows = []
    for precision in map(float, arguments.precision.split(",")):
        for profile in PROFILES:
            for mails in MAILS:
                found = simulate(profile, mails, precision, arguments.draws)
                rows.append({"precision": precision, "profile": profile, "mails": mails, "procedures": found})
                cells = "  ".join(f"{n} {v['false']:.2f}/{v['routed']:.2f}" for n, v in found.items())
                print(f"{precision:.0%} {profile:14} {mails:5,} mails (false/routed)  {cells}", flush=True)
    _summarise(rows)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"draws": arguments.draws, "rows": rows}, indent=2) + "\n")


def _summarise(rows: list[dict]) -> None:  # type: ignore[type-arg]
    print("\nmost false promises, then the mean share routed over profiles and precisions, by validation mails")
    for name in PROCEDURES:
        worst = max(row["procedures"][name]["false"] for row in rows)
        means = [np.mean([r["procedures"][name]["routed"] for r in rows if r["mails"] == mails]) for mails in MAILS]
        shares = "  ".join(f"{mails:,}: {mean:.3f}" for mails, mean in zip(MAILS, means, strict=True))
        print(f"{name:26} {worst:.3f}   {shares}")


if __name__ == "__main__":
    main()
