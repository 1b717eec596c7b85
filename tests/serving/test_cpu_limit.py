"""The CPU limit, from control groups of both versions, and that forward passes keep to it."""

from __future__ import annotations

import json
import os

import pytest

from mailtriage.bundle import Bundle
from serving import predictor
from serving.cpu import cpu_limit

AFFINITY = len(os.sched_getaffinity(0))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def membership(tmp_path):
    return tmp_path / "membership"


@pytest.mark.parametrize(
    ("quota", "expected"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", AFFINITY), ("rubbish", AFFINITY)]
)
def test_version_2(tmp_path, membership, quota, expected):
    membership.write_text("0::/pod/container\n")
    write(tmp_path / "pod/container/cpu.max", quota)

    assert cpu_limit(tmp_path, membership) == expected


def test_a_parents_limit_counts(tmp_path, membership):
    membership.write_text("0::/pod/container\n")
    write(tmp_path / "pod/container/cpu.max", "max 100000")
    write(tmp_path / "pod/cpu.max", "100000 100000")

    assert cpu_limit(tmp_path, membership) == 1


@pytest.mark.parametrize(("quota", "expected"), [("100000", 1), ("-1", AFFINITY)])
def test_version_1(tmp_path, membership, quota, expected):
    membership.write_text("4:memory:/pod\n3:cpu,cpuacct:/pod\n")
    write(tmp_path / "cpu,cpuacct/pod/cpu.cfs_quota_us", quota)
    write(tmp_path / "cpu,cpuacct/pod/cpu.cfs_period_us", "100000")

    assert cpu_limit(tmp_path, membership) == expected


def test_without_control_groups_the_affinity_counts(tmp_path, membership):
    assert cpu_limit(tmp_path / "none", membership) == AFFINITY


def load(bundle_path, threads):
    limits = {"token_budget": 1024, "queue_limit": 16, "wait_limit": 1.0, "timeout": 1.0}
    return predictor.Predictor.load_bundle("mailtriage", Bundle.open(bundle_path), threads=threads, **limits)


@pytest.mark.parametrize(("given", "expected"), [(None, AFFINITY + 3), (AFFINITY + 5, AFFINITY + 5)])
def test_a_forward_pass_has_as_many_threads_as_the_limit_unless_told_otherwise(
    bundle_path, monkeypatch, given, expected
):
    """More than there are here, so that no default of ONNX Runtime can be taken for it."""
    opened = []

    def load_engine(*arguments):
        opened.append(real(*arguments))
        return opened[-1]

    real = predictor.load_engine
    monkeypatch.setattr(predictor, "load_engine", load_engine)
    monkeypatch.setattr(predictor, "cpu_limit", lambda: AFFINITY + 3)

    load(bundle_path, given).stop()

    (engine,) = opened
    assert engine._session.get_session_options().intra_op_num_threads == expected


def test_a_started_predictor_says_how_many_threads_it_has(stack):
    lines = [line for log in stack.work.rglob("predictor.log") for line in log.read_text().splitlines()]

    loaded = [json.loads(line)["threads"] for line in lines if '"message":"loaded"' in line]

    assert loaded
    assert set(loaded) == {cpu_limit()}
