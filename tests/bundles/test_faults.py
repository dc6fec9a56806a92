# SPDX-License-Identifier: Apache-2.0

"""Real commands, stopped and killed; ``benchmarks/faults.py`` has the whole table."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from faults import Faults


@pytest.mark.slow
def test_a_command_that_was_told_to_stop_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    row = Faults(tmp_path, kills=1, seed=0).told_to_stop(signal.SIGTERM, "pretrain")
    assert row.lost == "nothing" and row.what_happened.startswith("exit code 75, saved step_"), row


@pytest.mark.full
@pytest.mark.parametrize("step", ["pretrain", "train"])
def test_a_command_that_was_killed_goes_on_to_the_same_weights(tmp_path: Path, step: str) -> None:
    row = Faults(tmp_path, kills=4, seed=1).killed(step)
    assert row.lost == "nothing", row


@pytest.mark.full
def test_torchrun_restarts_after_a_rank_has_died(tmp_path: Path) -> None:
    row = Faults(tmp_path, kills=1, seed=0).rank(restarts=1)
    assert row.lost == "nothing" and "exit code 0" in row.what_happened, row


@pytest.mark.full
@pytest.mark.parametrize(
    ("step", "fault"), [("pretrain", "two machines"), ("train", "dead process"), ("pretrain", "dead machine")]
)
def test_two_machines(tmp_path: Path, step: str, fault: str) -> None:
    row = Faults(tmp_path, kills=1, seed=0).machines(step, fault)
    assert row.lost == "nothing", row
