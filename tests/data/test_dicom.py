# SPDX-License-Identifier: Apache-2.0

"""DICOM folders as scanners, archives and users leave them: read slice by slice in their places, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_series import write_series, write_slice

from hybridmim_components.data import find_volumes, inspect_volumes, read_volume

VOXELS = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 12)).astype(np.int16)
STEM = "1.2.3.4_"


def series(folder: Path, suffix: str = ".dcm") -> Path:
    return Path(write_series(folder, VOXELS, suffix=suffix))


def test_slices_are_sorted_by_position_whatever_their_names_and_numbers(tmp_path: Path) -> None:
    names = np.random.default_rng(1).permutation(12)
    for z, name in enumerate(names):
        write_slice(tmp_path / f"{name}.dcm", VOXELS[..., z], -40 - 2.5 * z, InstanceNumber=int(names[-z]))
    image = read_volume(str(tmp_path))
    assert np.array_equal(image[0].numpy(), VOXELS[..., ::-1])
    assert float(image.pixdim[2]) == 2.5


def test_positions_with_one_digit_are_even_enough(tmp_path: Path) -> None:
    for z in range(12):
        write_slice(tmp_path / f"{z}.dcm", VOXELS[..., z], round(0.625 * z, 1))
    assert read_volume(str(tmp_path)).shape == (1, 6, 5, 12)


def copied(folder: Path) -> None:
    shutil.copy(folder / f"{STEM}7.dcm", folder / "copy of 7.dcm")


def another_image_at_the_place(folder: Path) -> None:
    write_slice(folder / "7 again.dcm", VOXELS[..., 0], 21.0, InstanceNumber=99)


def a_gap(folder: Path) -> None:
    for z in (4, 5):
        (folder / f"{STEM}{z}.dcm").unlink()


def two_phases(folder: Path) -> None:
    for z in range(12):
        write_slice(folder / f"venous_{z}.dcm", VOXELS[..., z] + 1, 3.0 * z, InstanceNumber=13 + z)


def two_series(folder: Path) -> None:
    write_series(folder, VOXELS, "1.2.3.5")


def a_scout(folder: Path) -> None:
    write_slice(folder / "scout.dcm", VOXELS[..., 0], -50.0, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])


def other_pixels(folder: Path) -> None:
    write_slice(folder / f"{STEM}11.dcm", VOXELS[..., 11], 33.0, PixelSpacing=[1.0, 2.0])


def a_tilted_gantry(folder: Path) -> None:
    for z in range(12):
        tags = {"ImagePositionPatient": [0, 0.8 * z, 3.0 * z], "InstanceNumber": z + 1}
        write_slice(folder / f"{STEM}{z}.dcm", VOXELS[..., z], 0, **tags)


def a_segmentation(folder: Path) -> None:
    for z in range(12):
        write_slice(folder / f"{STEM}{z}.dcm", VOXELS[..., z] > 0, 3.0 * z, Modality="SEG")


def no_positions(folder: Path) -> None:
    for path in folder.iterdir():
        write_slice(path, VOXELS[..., 0], 0.0)


FAULTS: dict[Callable[[Path], None], str] = {
    copied: r"one slice at each position, got more at 1 of 12, such as .*7.dcm and .*7.dcm at 21.00 mm: remove",
    another_image_at_the_place: r"more at 1 of 12, such as .*7.* at 21.00 mm: remove the copies, or give each phase",
    a_gap: rf"3.00 mm apart .*within 0.3 mm, got 9.00 mm between {STEM}3.dcm at 9.00 mm and {STEM}6.dcm at 18.00 mm",
    two_phases: r"got 2 at each of 12, such as .* at 0.00 mm: give each phase, echo or time",
    two_series: r"must hold one DICOM series, got 2: 12 file.s. such as .*, 12 file.s. .*; give each series a folder",
    a_scout: "slices must be parallel .* got others in .* and (scout|1.2.3.4_).*dcm",
    other_pixels: "pixels of one size, got others in .* and .*dcm",
    a_tilted_gantry: f"straight above each other, within 1 mm, got {STEM}11.dcm 8.8 mm aside of .*dcm2niix",
    a_segmentation: "must be an image, got modality SEG",
    no_positions: "got 12 at each of 1, such as .* at 0.00 mm",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_series_that_would_be_misplaced_are_refused_by_name_and_position(
    tmp_path: Path, fault: Callable[[Path], None]
) -> None:
    good, bad = series(tmp_path / "good"), series(tmp_path / "bad")
    fault(bad)
    found = [{"image": path} for path in find_volumes(tmp_path)]
    with pytest.raises(ValueError, match=f"1 of 2 .*\n.*cannot read the image {bad}: .*{FAULTS[fault]}"):
        inspect_volumes(found)
    cache = tmp_path / "out" / "volumes.json"
    assert list(inspect_volumes(found, cache, skip_unreadable=True)) == [(str(good),)]
    left_out = json.loads((tmp_path / "out" / "left_out.json").read_text())["left_out"]
    assert len(left_out) == 1 and str(bad) in left_out[0]


@pytest.mark.parametrize("suffix", ["", ".ima", ".0001"])
def test_dicom_is_known_by_its_preamble_where_no_suffix_tells(tmp_path: Path, suffix: str) -> None:
    folder = series(tmp_path / "PATIENT_DICOM", suffix)
    series(tmp_path / "LABELLED_DICOM", suffix)
    series(tmp_path / "MASKS_DICOM" / "liver", suffix)
    (folder / "report").write_bytes(b"no image" * 99)
    shutil.copy(folder / f"{STEM}0{suffix}", tmp_path / "DICOMDIR")
    assert find_volumes(tmp_path) == [str(folder)]
    assert np.array_equal(read_volume(str(folder))[0].numpy(), VOXELS)
    copied_name = folder / f"{STEM}10 copy{suffix}"
    shutil.copy(folder / f"{STEM}10{suffix}", copied_name)
    with pytest.raises(ValueError, match="one slice at each position"):
        read_volume(str(folder))
    copied_name.unlink()
    damaged = (folder / f"{STEM}5{suffix}").read_bytes()
    (folder / f"{STEM}5{suffix}").write_bytes(damaged[:140])
    with pytest.raises(ValueError, match=f"1 that are not, such as {STEM}5{suffix}"):
        read_volume(str(folder))


def test_prepare_refuses_what_pretraining_refuses(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    from hybridmim_components.store import StoreSettings, prepare_store

    series(tmp_path / "scans" / "good", "")
    copied(series(tmp_path / "scans" / "bad"))
    settings = StoreSettings((2.0, 1.5, 3.0), (-175, 250))
    with pytest.raises(ValueError, match=r"1 of 2 .*\n.*scans/bad: .*one slice at each position, got more at 1 of 12"):
        prepare_store(tmp_path / "scans", tmp_path / "store", settings, num_workers=0)
    assert prepare_store(tmp_path / "scans", tmp_path / "store", settings, num_workers=0, skip_unreadable=True) == 1
