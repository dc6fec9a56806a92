# SPDX-License-Identifier: Apache-2.0
"""The record of a run tells how each start ended, and never ends a run."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from monai.engines import SupervisedEvaluator

from hybridmim_components.system.folder_lock import FolderLock
from hybridmim_components.system.stop_signals import EXIT_CODE
from hybridmim_components.workflow import engines
from hybridmim_components.workflow.run_record import RunRecord


def read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))


def outcomes(folder: Path) -> list[str]:
    return [start["outcome"] for start in read(folder)["starts"]]


def test_each_start_is_kept_with_its_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["run", "--config_file", "['a b.json','c.json']", "a b"]
    monkeypatch.setattr(sys, "argv", ["/x/monai/bundle/__main__.py", *arguments])
    with RunRecord(tmp_path, "train", tmp_path / "models"):
        assert outcomes(tmp_path) == ["running"]
    with pytest.raises(RuntimeError, match="broken"), RunRecord(tmp_path, "train"):
        raise RuntimeError("broken")
    with RunRecord(tmp_path, "train") as record:
        record.stopped = True
    assert outcomes(tmp_path) == ["finished", "failed", "stopped"]
    found = read(tmp_path)
    assert found["command"] == "python -m monai.bundle run --config_file \"['a b.json','c.json']\" 'a b'"
    assert set(found["versions"]) == {"hybridmim_components", "monai", "torch", "ignite", "nibabel", "numpy"}
    # another step in the same folder is another run, and a damaged file is none
    with RunRecord(tmp_path, "evaluate"):
        assert outcomes(tmp_path) == ["running"]
    (tmp_path / "run.json").write_text("{")
    with RunRecord(tmp_path, "evaluate"):
        pass
    assert outcomes(tmp_path) == ["finished"]


@pytest.mark.parametrize(
    ("argv", "command"),
    [([""], "python"), ([], "python"), (["-c"], "-c"), (["/x/hybridmim_components/__main__.py", "nnunet"], "nnunet")],
)
def test_other_programs_are_recorded_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], command: str
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    with RunRecord(tmp_path, "train"):
        assert read(tmp_path)["command"].endswith(command)


def test_the_record_names_neither_machine_nor_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "ward-7-console")
    monkeypatch.setattr(getpass, "getuser", lambda: "dr-who")
    monkeypatch.setattr(sys, "argv", ["program"])
    with RunRecord(tmp_path, "train"):
        text = (tmp_path / "run.json").read_text(encoding="utf-8")
    assert "ward-7" not in text and "dr-who" not in text and os.uname().nodename not in text


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run.json").mkdir()
    with RunRecord(tmp_path, "train"):
        pass
    assert "run.json could not be written" in caplog.text


def test_a_run_with_a_lock_is_recorded_and_one_without_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine(SupervisedEvaluator):
        def __init__(self, stopped: bool) -> None:
            self.state = SimpleNamespace(stopped=stopped)

        def run(self) -> None:
            pass

    monkeypatch.chdir(tmp_path)
    engines.run(Engine(False))
    assert list(tmp_path.iterdir()) == []
    engines.run(Engine(False), FolderLock(output_dir=tmp_path / "out", ckpt_dir=tmp_path / "models"))
    assert (
        read(tmp_path / "out")["weights"] == str(tmp_path / "models") and read(tmp_path / "out")["step"] == "evaluate"
    )
    with pytest.raises(SystemExit) as stop:
        engines.run(Engine(True), FolderLock(output_dir=tmp_path / "out"))
    assert stop.value.code == EXIT_CODE and outcomes(tmp_path / "out") == ["finished", "stopped"]
