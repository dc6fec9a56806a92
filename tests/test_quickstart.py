# SPDX-License-Identifier: Apache-2.0

"""The first command of the README, with the current environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def quickstart(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [str(ROOT / "quickstart.sh"), "--no-install", *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True)


@pytest.mark.full
def test_it_ends_with_a_dice_above_0_8_on_unseen_phantoms_and_does_nothing_twice(tmp_path: Path) -> None:
    first = quickstart(tmp_path, "--output", "out")
    assert first.returncode == 0, first.stdout + first.stderr
    line = next(text for text in first.stdout.splitlines() if text.startswith("spleen (validation)"))
    assert float(line.split()[2]) > 0.8
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "models").rglob("*.pt")}
    assert len(before) == 3 and (tmp_path / "out" / "overview.png").is_file()
    assert "4 of 4 cases have" in " ".join((tmp_path / "out" / "report.html").read_text(encoding="utf-8").split())
    second = quickstart(tmp_path, "--output", "out")
    assert second.stdout.count("is done already") == 4
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_help_and_mistakes(tmp_path: Path) -> None:
    assert quickstart(tmp_path, "--help").stdout.startswith("Usage: ./quickstart.sh")
    wrong = quickstart(tmp_path, "--outptu", "x")
    assert wrong.returncode == 2 and "unknown argument: --outptu" in wrong.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_set_ends_with_its_name(tmp_path: Path) -> None:
    done = quickstart(tmp_path, "--output", "out", "--dataset-dir", "nowhere")
    assert done.returncode == 1
    assert f"error: dataset_dir must be an existing folder, got {tmp_path / 'nowhere'}" in done.stderr
