# SPDX-License-Identifier: Apache-2.0

"""A part of the mutated files, each in a process of its own; benchmarks/mutated_files.py runs all of them."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import mutated_files
import pytest
from good_files import GOOD
from mutations import mutations

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "mutated_files.py"


@pytest.mark.slow
def test_mutated_files_are_accepted_or_refused_by_name(tmp_path: Path) -> None:
    arguments = ["--every", "12", "--random", "8", "--output", str(tmp_path / "rows.csv")]
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == set(GOOD) and len(rows) >= 25
    assert {row["outcome"] for row in rows} == {"accepted", "refused"}


def test_the_corpus_has_two_hundred_files_and_more_of_what_the_readers_read() -> None:
    kinds = [kind for kind in GOOD if kind not in ("weights", "tar")]  # which are slower to make
    names = [(kind, name) for kind in kinds for name, _ in mutations(kind, 25)]
    assert len(names) > 200
    first, again = ([content for _, content in mutations("nii", 16)] for _ in range(2))
    assert first == again


def test_a_traceback_and_a_message_without_the_file_are_told_from_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dataset.json"
    path.write_text("[]")
    assert mutated_files.judge("dataset.json", path)[0] == "refused"

    def of_a_library(*_: object) -> None:
        raise ValueError(f"it came from elsewhere, though it names {path}")

    monkeypatch.setattr(mutated_files, "read", of_a_library)
    assert mutated_files.judge("dataset.json", path)[0] == "traceback"
    from hybridmim_components.method.masking import MaskGrid

    monkeypatch.setattr(mutated_files, "read", lambda *_: MaskGrid(1, 2, 3))
    assert mutated_files.judge("dataset.json", path)[0] == "unnamed"
