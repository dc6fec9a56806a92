# SPDX-License-Identifier: Apache-2.0

"""Each tutorial, command by command as it stands there, in a fresh copy of the repository with its own environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
PICTURE = 100_000  # bytes of overview.png and report.html, at least


def commands(page: str) -> str:
    """What a reader types: the page's blocks of shell commands, one after the other."""
    return "\n".join(re.findall(r"^```bash\n(.*?)^```$", (TUTORIALS / page).read_text(), re.DOTALL | re.MULTILINE))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files of the working tree that git knows, or would add."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def type_in(script: str, folder: Path) -> str:
    variables = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_tutorial_is_executed() -> None:
    assert {page.name for page in TUTORIALS.glob("*.md")} == {"first_run.md", "hippocampus.md"}


@pytest.mark.full
def test_a_first_run_works_as_written_with_phantoms_as_own_data(copy: Path) -> None:
    phantoms = copy / "quickstart_output" / "phantoms"
    places = {"/path/to/labelled": phantoms / "Task09_Spleen", "/path/to/scans": phantoms / "unlabelled"}
    script = commands("first_run.md")
    for place, folder in places.items():
        assert place in script
        script = script.replace(place, str(folder))
    output = type_in(script, copy)
    assert "all 20 cases can be used" in output
    for run in ("quickstart_output", "my_run"):
        assert all((copy / run / name).stat().st_size > PICTURE for name in ("overview.png", "report.html"))


@pytest.mark.full
def test_real_mri_in_one_command_works_as_written(copy: Path, real_data: Path) -> None:
    (copy / "hippocampus_run").mkdir()  # in place of the download
    (copy / "hippocampus_run" / "Task04_Hippocampus").symlink_to(real_data / "msd_hippocampus")
    output = type_in(commands("hippocampus.md"), copy)
    dice = re.search(r"^mean \(validation\) +([\d.]+)", output, re.MULTILINE)
    assert dice and float(dice[1]) > 0.75
    assert all((copy / "hippocampus_run" / name).stat().st_size > PICTURE for name in ("overview.png", "report.html"))
