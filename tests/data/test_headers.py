# SPDX-License-Identifier: Apache-2.0

"""Volumes that are refused by their headers, before anything is allocated or read elsewhere."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hybridmim_components.data import VolumeRules, find_volumes, read_volume
from hybridmim_components.data import headers as headers_module
from hybridmim_components.data.volumes import check_label

VOXELS = np.arange(120, dtype=np.int16).reshape(6, 5, 4)


def nifti(path: Path, dims: tuple[int, ...] = (6, 5, 4), zeros: int = 0) -> str:
    content = bytearray(nib.Nifti1Image(VOXELS, np.diag([2.0, 1.5, 3.0, 1.0])).to_bytes())
    struct.pack_into(f"<{1 + len(dims)}h", content, 40, len(dims), *dims)
    content += bytes(zeros)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_claims_terabytes_is_refused_before_allocation(tmp_path: Path, suffix: str) -> None:
    path = nifti(tmp_path / f"a{suffix}", (32767, 32767, 32767))
    tracemalloc.start()  # numpy tells it of its arrays
    with pytest.raises(ValueError, match=rf"cannot read the image {path}: .*claims 70362301923678 bytes"):
        read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_that_does_hold_what_it_claims_is_refused_above_the_limit(tmp_path: Path, suffix: str) -> None:
    # 512 KiB of voxels are 1 MiB as float32
    path = nifti(tmp_path / f"a{suffix}", (64, 64, 64), zeros=2 * 64**3 - 240)
    message = rf"{path}: .* 0.000977 GiB as float32, which must be at most 0.0009 GiB \(max_gib of the volume's rules"
    with pytest.raises(ValueError, match=message):
        read_volume(path, rules=VolumeRules(max_gib=0.0009))
    assert read_volume(path, rules=VolumeRules(max_gib=2**-10)).shape == (1, 64, 64, 64)


def test_no_limit_is_above_the_memory_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nifti(tmp_path / "a.nii")
    monkeypatch.setattr(headers_module, "_machine_gib", lambda: 1e-8)
    with pytest.raises(ValueError, match="no more than the machine has"):
        read_volume(path)


def test_a_label_may_be_as_large_as_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = read_volume(nifti(tmp_path / "a.nii"))
    monkeypatch.setattr("hybridmim_components.data.volumes.MAX_GIB", 1e-9)
    assert check_label(image, nifti(tmp_path / "label.nii")).shape == image.shape
    with pytest.raises(ValueError, match="label.nii: .* must be at most"):
        check_label(image[:, :3], nifti(tmp_path / "label.nii"))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mhd", "a.nrrd", "series/a.dcm"])
def test_a_pipe_is_never_waited_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "series").mkdir()
    os.mkfifo(tmp_path / name)
    (tmp_path / "z.nii").touch()
    with pytest.raises(ValueError, match="must (be a regular file or a folder|hold regular files, got a.dcm)"):
        for path in find_volumes(tmp_path):
            read_volume(path)


@pytest.mark.parametrize(
    "target", ["../secret.raw", "{root}/secret.raw", "/dev/zero", "LIST\n../secret.raw", "%s.raw 1 2 1"]
)
def test_a_metaimage_reads_no_file_elsewhere(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    (tmp_path / "inner").mkdir()
    rows = ("ObjectType = Image", "NDims = 3", "DimSize = 6 5 4", "ElementType = MET_SHORT", "ElementSpacing = 1 1 1")
    text = "\n".join((*rows, "ElementDataFile = "))
    path = tmp_path / "inner" / "a.mhd"
    path.write_text(text + target.format(root=tmp_path) + "\n")
    with pytest.raises(ValueError, match=f"{path}: .*ElementDataFile must be LOCAL or a file beside it"):
        read_volume(str(path))
    (path.parent / "own.raw").write_bytes(VOXELS.tobytes())
    path.write_text(text + "own.raw\n")
    assert read_volume(str(path)).shape == (1, 6, 5, 4)


def test_a_nrrd_reads_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    path = tmp_path / "a.nrrd"
    rows = ("NRRD0004", "type: short", "dimension: 3", "sizes: 6 5 4", "encoding: raw", "endian: little")
    path.write_text("\n".join((*rows, f"data file: {tmp_path}/secret.raw", "")))
    with pytest.raises(ValueError, match=f"{path}: .*must hold its voxels itself"):
        read_volume(str(path))


def test_other_files_than_volumes_are_not_tried(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a.npy: .*it must be a .nii, .nii.gz, .mhd, .mha, .nrrd file or a folder"):
        read_volume(str(tmp_path / "a.npy"))
