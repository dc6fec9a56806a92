# SPDX-License-Identifier: Apache-2.0

"""Reading, finding and fingerprinting volumes in the formats that users have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_series import write_series
from monai.data import MetaTensor
from monai.transforms import Compose, RandFlipd, Transform

from hybridmim_components.data import (
    VolumeRules,
    find_volumes,
    fingerprint,
    inspect_volumes,
    make_dataset,
    pretraining_lists,
    read_cases,
    read_volume,
)
from hybridmim_components.data.disk_cache import hash_item

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
AFFINE = np.diag([2.0, 1.5, 3.0, 1.0])
FLIPPED = np.array([[-2.0, 0, 0, 10], [0, 1.5, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]])  # the same grid, stored backwards


def write_nifti(path: Path, voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


def write_itk(path: Path, voxels: np.ndarray = VOXELS) -> str:
    """The same volume in ITK's LPS: the first two axes are flipped."""
    image = itk.image_view_from_array(np.ascontiguousarray(voxels[::-1, ::-1].transpose(2, 1, 0)))
    image.SetSpacing([2.0, 1.5, 3.0])
    path.parent.mkdir(parents=True, exist_ok=True)
    itk.imwrite(image, str(path))
    return str(path)


def write_dicom(folder: Path) -> str:
    return write_series(folder, VOXELS)


def test_every_format_is_found_read_and_recognised_as_one_volume(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz")
    write_nifti(tmp_path / "deep" / "er" / "b.nii")
    write_itk(tmp_path / "c.mhd")
    write_itk(tmp_path / "d.nrrd")
    write_dicom(tmp_path / "study" / "series")
    (tmp_path / "notes.txt").write_text("no volume")
    write_nifti(tmp_path / "._a.nii.gz")
    found = find_volumes(str(tmp_path))
    assert [Path(p).name for p in found] == ["a.nii.gz", "c.mhd", "d.nrrd", "b.nii", "series"]
    for path in found:
        image = read_volume(path)
        assert image.shape == (1, 6, 5, 4), path
        assert np.array_equal(image[0].numpy(), VOXELS), path
        assert np.allclose(np.abs(np.diag(image.affine))[:3], [2, 1.5, 3]), path
    assert len({d for (d,) in inspect_volumes([{"image": p} for p in found]).values()}) == 1


def test_fingerprint_knows_copies_and_tells_others_apart(tmp_path: Path) -> None:
    original = fingerprint(read_volume(write_nifti(tmp_path / "patient_name.nii.gz")))
    assert fingerprint(read_volume(write_nifti(tmp_path / "x.nii", VOXELS[::-1], FLIPPED))) == original
    assert fingerprint(read_volume(write_nifti(tmp_path / "f.nii", VOXELS.astype(np.float32)))) == original
    changed = VOXELS.copy()
    changed[3, 2, 1] += 1
    assert fingerprint(read_volume(write_nifti(tmp_path / "y.nii", changed))) != original
    assert fingerprint(read_volume(write_nifti(tmp_path / "z.nii", VOXELS.reshape(5, 6, 4)))) != original


def test_all_unusable_images_are_named_at_once(tmp_path: Path) -> None:
    good = write_nifti(tmp_path / "good.nii.gz")
    holes = VOXELS.astype(np.float32)
    holes[0, 0, 0] = np.nan
    bad = {
        "nan.nii.gz": "NaN or infinity",
        "empty.nii.gz": "cannot read the image",
        "cut.nii.gz": "cannot read the image",
        "flat.nii.gz": "must be a 3D volume",
        "four.nii.gz": "must be a 3D volume of one channel, got 3 channel(s)",
        "gone.nii.gz": "no image",
    }
    write_nifti(tmp_path / "nan.nii.gz", holes)
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "good.nii.gz").read_bytes()[:100])
    write_nifti(tmp_path / "flat.nii.gz", VOXELS[:, :, 0], AFFINE)
    write_nifti(tmp_path / "four.nii.gz", np.stack([VOXELS] * 3, -1))
    with pytest.raises(ValueError, match=r"6 of 7 volume\(s\) cannot be used") as caught:
        inspect_volumes([{"image": str(tmp_path / name)} for name in ["good.nii.gz", *bad]])
    for name, reason in bad.items():
        line = next(text for text in str(caught.value).splitlines() if name in text)
        assert reason in line
    assert good not in str(caught.value)


BAD_LABELS = {
    "shape": (np.zeros((6, 5, 3), np.uint8), AFFINE, r"must have its image's shape \(6, 5, 4\), got \(6, 5, 3\)"),
    "affine": (np.zeros((6, 5, 4), np.uint8), np.diag([2, 1.5, 2, 1]), "must be stored with its image's affine"),
    "storage": (np.zeros((6, 5, 4), np.uint8), FLIPPED, "must be stored with its image's affine and orientation"),
    "value": (np.full((6, 5, 4), 7, np.uint8), AFFINE, r"label values must be among 0, 1, got 7"),
    "fraction": (np.full((6, 5, 4), 0.5, np.float32), AFFINE, r"label values must be among 0, 1, got 0\.5"),
}


@pytest.mark.parametrize("fault", BAD_LABELS)
def test_labels_that_do_not_belong_to_their_image_are_named(tmp_path: Path, fault: str) -> None:
    voxels, affine, message = BAD_LABELS[fault]
    item = {"image": write_nifti(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz")}
    write_nifti(tmp_path / "label.nii.gz", np.zeros_like(voxels, shape=(6, 5, 4)))
    assert inspect_volumes([item], tmp_path / "cache.json", rules=VolumeRules(label_values=range(2)))
    write_nifti(tmp_path / "label.nii.gz", voxels, affine)
    with pytest.raises(ValueError, match=f"{message}.*label.nii.gz|{message} in .*label.nii.gz"):
        inspect_volumes([item], tmp_path / "cache.json", rules=VolumeRules(label_values=range(2)))
    (tmp_path / "label.nii.gz").write_bytes(b"no NIfTI")
    with pytest.raises(ValueError, match="cannot read the label .*label.nii.gz"):
        inspect_volumes([item], tmp_path / "cache.json", rules=VolumeRules(label_values=range(2)))


def test_fingerprints_are_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path, cache = write_nifti(tmp_path / "a.nii.gz"), tmp_path / "run" / "volumes.json"
    first = inspect_volumes([{"image": path}], cache)
    remembered = json.loads(cache.read_text())
    (key,) = remembered
    remembered[key][1] = ["from the cache"]
    cache.write_text(json.dumps(remembered))
    assert inspect_volumes([{"image": path}], cache) == {(path,): ["from the cache"]}
    write_nifti(Path(path), VOXELS + 1)
    assert inspect_volumes([{"image": path}], cache)[(path,)] not in (first[(path,)], ["from the cache"])
    cache.write_text("{ half")
    assert inspect_volumes([{"image": path}], cache) == inspect_volumes([{"image": path}])


def test_msd_cases_are_paired_by_case_id(tmp_path: Path) -> None:
    for name in ("spleen_10", "spleen_2"):
        write_nifti(tmp_path / "imagesTr" / f"{name}.nii.gz")
        write_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz")
    write_nifti(tmp_path / "imagesTr" / "._spleen_2.nii.gz")
    cases = read_cases("msd_spleen", tmp_path)
    assert [c["case_id"] for c in cases] == ["spleen_10", "spleen_2"]
    assert all(Path(c["image"]).name == Path(c["label"]).name for c in cases)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("labelsTr/spleen_2.nii.gz", "no label in .*labelsTr for spleen_2"),
        ("imagesTr/spleen_2.nii.gz", "no image in .*imagesTr for the label of spleen_2"),
        ("labelsTr", "dataset_dir must hold imagesTr and labelsTr, labelsTr is not in"),
    ],
)
def test_incomplete_layouts_are_named(tmp_path: Path, remove: str, message: str) -> None:
    for name in ("spleen_1", "spleen_2"):
        write_nifti(tmp_path / "imagesTr" / f"{name}.nii.gz")
        write_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz")
    target = tmp_path / remove
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_cases("msd_spleen", tmp_path)


def test_where_a_folder_is_mounted_does_not_change_the_lists(tmp_path: Path) -> None:
    def lists(root: str, count: int) -> dict[str, dict[str, int]]:
        for i in range(count):
            write_nifti(tmp_path / root / "sub" / f"{i}.nii.gz")
        found = pretraining_lists("msd_spleen", "", [str(tmp_path / root)], val_fraction=0.4)
        return {part: {Path(i["image"]).name: i["volume"] for i in found[part]} for part in ("training", "validation")}

    first = lists("a", 6)
    assert first == lists("elsewhere", 6)
    more = lists("a", 7)
    numbers = {**more["training"], **more["validation"]}
    assert all(numbers[name] == number for part in first.values() for name, number in part.items())
    assert len(set(numbers.values())) == 7


def test_a_series_that_bears_the_name_of_a_case_does_not_displace_it(tmp_path: Path) -> None:
    for i in range(6):
        for part in ("imagesTr", "labelsTr"):
            write_nifti(tmp_path / "msd" / part / f"spleen_{i}.nii.gz")
        write_dicom(tmp_path / "scans" / f"spleen_{i}")
    lists = pretraining_lists("msd_spleen", str(tmp_path / "msd"), str(tmp_path / "scans"))
    seen = [item for part in ("training", "validation") for item in lists[part]]
    # 4 of 6 cases, fold 0 holding out 2, and all 6 series
    assert sum(item["image"].endswith(".nii.gz") for item in seen) == 4
    assert len(seen) == len({item["volume"] for item in seen}) == 10


def test_a_parent_folder_is_recognised(tmp_path: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        write_nifti(tmp_path / "Task09_Spleen" / part / "spleen_2.nii.gz")
    with pytest.raises(FileNotFoundError, match="did you mean .*Task09_Spleen"):
        read_cases("msd_spleen", tmp_path)


class CountingLoader(Transform):
    """Deterministic transform that counts its calls in a file, since caches may copy it."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def __call__(self, item: dict) -> dict:
        with self.log.open("a") as file:
            file.write("x")
        return {**item, "image": MetaTensor(torch.as_tensor(nib.load(item["image"]).get_fdata())[None])}


@pytest.mark.parametrize(("cache", "loads"), [("none", 4), ("memory", 2), ("disk", 2)])
def test_caches_load_each_volume_once(tmp_path: Path, cache: str, loads: int) -> None:
    paths = [write_nifti(tmp_path / f"{i}.nii.gz", VOXELS + i) for i in range(2)]
    log = tmp_path / "log"
    transform = Compose([CountingLoader(log), RandFlipd("image", prob=0.5)])
    dataset = make_dataset([{"image": p} for p in paths], transform, cache, tmp_path / "cache")
    sums = [[float(dataset[i]["image"].sum()) for i in range(2)] for _ in range(2)]
    assert len(log.read_text()) == loads
    assert sums[0] == sums[1] == [float(VOXELS.sum(dtype=int)), float((VOXELS + 1).sum(dtype=int))]


def test_the_disk_cache_never_serves_a_replaced_file(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz")
    transform = Compose([CountingLoader(tmp_path / "log")])

    def total() -> float:
        return float(make_dataset([{"image": path}], transform, "disk", tmp_path / "cache")[0]["image"].sum())

    assert total() == total() == float(VOXELS.sum(dtype=int))
    write_nifti(Path(path), VOXELS + 1)
    assert total() == float((VOXELS + 1).sum(dtype=int))


def test_unknown_caches_are_refused() -> None:
    with pytest.raises(ValueError, match="cache must be one of .*, got 'ram'"):
        make_dataset([], Compose([]), "ram")
    with pytest.raises(ValueError, match="cache 'disk' needs cache_dir"):
        make_dataset([], Compose([]), "disk")


@pytest.mark.parametrize("rows", [[[2, 0, 0, np.nan], [0, 1.5, 0, 0]], [[2, 1.5, 0, 0], [0, 0, 0, 0]]])
def test_an_affine_that_leads_nowhere_is_named(tmp_path: Path, rows: list[list[float]]) -> None:
    path = Path(write_nifti(tmp_path / "a.nii"))
    content = bytearray(path.read_bytes())
    # two rows of the header's sform, which nibabel itself would not write so
    content[280:312] = np.array(rows, "<f4").tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"image must have a finite and invertible affine, got .* in {path}"):
        read_volume(str(path))


def test_modalities_lie_on_one_grid_as_closely_as_monai_wants(tmp_path: Path) -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] = 0.005
    paths = [write_nifti(tmp_path / "a.nii"), write_nifti(tmp_path / "b.nii", VOXELS + 1, shifted)]
    with pytest.raises(ValueError, match="a modality must be stored with its image's affine .*b.nii"):
        read_volume(paths, rules=VolumeRules(channels=2))
    write_nifti(tmp_path / "b.nii", VOXELS + 1)
    image = read_volume(paths, rules=VolumeRules(channels=2))
    assert torch.equal(image.as_tensor()[1], image.as_tensor()[0] + 1)
    assert len(inspect_volumes([{"image": paths}], rules=VolumeRules(channels=2))[tuple(paths)]) == 2


def test_normalised_images_have_fingerprints_of_their_own() -> None:
    one, other = (MetaTensor(torch.rand(1, 6, 5, 4) * 0.4) for _ in range(2))
    assert fingerprint(one) == fingerprint(one.clone()) != fingerprint(other)


@pytest.mark.parametrize("kind", ["series", "raw"])
def test_the_disk_cache_notices_replaced_data_beside_or_below_a_path(tmp_path: Path, kind: str) -> None:
    if kind == "series":
        path = write_dicom(tmp_path / "series")
        data = sorted((tmp_path / "series").iterdir())[0]
    else:
        write_itk(tmp_path / "c.mhd")
        path, data = str(tmp_path / "c.mhd"), next(p for p in tmp_path.iterdir() if p.suffix != ".mhd")
    before = hash_item({"image": path})
    assert hash_item({"image": path}) == before
    data.write_bytes(data.read_bytes() + b" ")
    assert hash_item({"image": path}) != before
