# SPDX-License-Identifier: Apache-2.0

"""The benchmark of fine-tuning runs as its help says, and refuses to compare runs that did not do the same."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from fine_tuning_epoch import report

from hybridmim_components.phantoms import write_msd_spleen

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "fine_tuning_epoch.py"


@pytest.mark.slow
def test_kinds_are_compared_on_real_runs(tmp_path: Path) -> None:
    work, results = tmp_path / "work", tmp_path / "results"
    write_msd_spleen(work / "spleen", 3, 0, size=(64, 64, 48), spacing=(5.0, 5.0, 5.0))  # else it writes large ones
    command = [sys.executable, str(SCRIPT), "--work", str(work), "--results", str(results), "--kinds", "none", "memory"]
    command += ["--rounds", "1", "--epochs", "2", "--cases", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open(results / "fine_tuning_epoch_msd_spleen_unet_small.csv", encoding="utf-8") as file:
        rows = {row["kind"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["none", "memory"]
    assert all(float(row["loading_cpu_s"]) > 0 for row in rows.values())  # tests/data count what a cache reads
    assert (results / "fine_tuning_epoch_msd_spleen_unet_small.png").stat().st_size > 0


def test_runs_that_end_with_other_weights_are_not_compared(tmp_path: Path) -> None:
    rows = [{"kind": "none", "weights": "a"}, {"kind": "memory", "weights": "b"}]
    with pytest.raises(SystemExit, match="not all runs end with the same weights"):
        report(rows, ["none", "memory"], tmp_path / "results", "epoch")
    assert not (tmp_path / "results").exists()
