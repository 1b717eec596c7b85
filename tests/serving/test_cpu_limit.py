"""The CPU limit, from control groups of both versions."""

from __future__ import annotations

import os

import pytest

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
