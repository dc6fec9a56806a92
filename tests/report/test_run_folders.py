# SPDX-License-Identifier: Apache-2.0

"""The outputs of steps are found by their records, or by their files, and mix-ups are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hybridmim_components.report.run_folders import find_run
from hybridmim_components.system.files import read_table
from hybridmim_components.workflow.run_record import RunRecord


def test_the_steps_are_found_in_a_folder_and_a_step_alone_by_its_files(whole_run: Callable[..., Path]) -> None:
    run = find_run(whole_run())
    found = [path.name for path in (run.pretrain, run.train, run.evaluate) if path]
    assert run.name == "run" and found == ["pretrain", "train", "evaluate"]
    assert run.train
    alone = find_run(run.train)
    assert (alone.pretrain, alone.train, alone.evaluate) == (None, run.train, None)
    assert alone.table("train", "training")[0]["train_loss"] == "1.0"
    assert alone.table("evaluate", "evaluation_cases") == [] and alone.record("train") == {}


def test_a_run_that_has_just_started_is_found_by_its_record(tmp_path: Path) -> None:
    with RunRecord(tmp_path / "a", "pretrain"):
        assert find_run(tmp_path).pretrain == tmp_path / "a"


def test_runs_that_were_set_aside_are_not_looked_into(whole_run: Callable[..., Path]) -> None:
    train = whole_run() / "train"
    for name in ("unfinished_1", "finished_12"):
        (train / name).mkdir()
        (train / name / "training.csv").write_text("epoch,train_loss\n")
    assert find_run(train).train == train


def test_two_outputs_of_one_step_and_folders_without_a_run_are_refused(
    whole_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = whole_run()
    (run / "train").rename(run / "first")
    (run / "second").mkdir()
    (run / "second" / "training.csv").write_text("epoch,train_loss\n")
    with pytest.raises(ValueError, match=r"two of train: .*first and .*second"):
        find_run(run)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no output of pretrain, train or evaluate in .*empty"):
        find_run(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="must be a folder, got .*missing"):
        find_run(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="the step that writes it has not run"):
        read_table(tmp_path / "missing.csv")
    (run / "pretrain" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*pretrain/run\.json"):
        find_run(run)
