# SPDX-License-Identifier: Apache-2.0

"""Changed volumes are noticed, wherever their voxels lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybridmim_components.system.files import file_state


@pytest.mark.parametrize("data_file", ["volume.raw", "voxels.raw"])
def test_the_data_that_a_header_names_count(tmp_path: Path, data_file: str) -> None:
    header, data = tmp_path / "volume.mhd", tmp_path / data_file
    header.write_text(f"NDims = 3\nElementDataFile = {data_file}\n")
    data.write_bytes(b"1234")
    before = file_state(header)
    os.utime(data, ns=(1, 1))
    assert before != file_state(header) != []


def test_an_older_file_of_the_same_size_in_a_folder_is_noticed(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_bytes(b"1234")
    os.utime(tmp_path / "b.dcm", ns=(10, 10))
    os.utime(tmp_path / "a.dcm", ns=(9, 9))
    before = file_state(tmp_path)
    os.utime(tmp_path / "a.dcm", ns=(8, 8))
    assert file_state(tmp_path) != before


def test_nothing_has_no_state(tmp_path: Path) -> None:
    assert file_state(tmp_path / "missing.mhd") == file_state(tmp_path / "missing") == file_state(tmp_path) == []
