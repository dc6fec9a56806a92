# SPDX-License-Identifier: Apache-2.0

"""MONAI Deploy's bundle operator on exported TorchScript files gives the masks of the bundle's own inference."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from small_bundles import small_bundle, small_phantoms

from hybridmim_components.deployment import export_network
from hybridmim_components.phantoms import PhantomFolders

RUN = Path(__file__).parents[2] / "ci" / "monai_deploy" / "run.sh"
SEQUENCES = ("flair", "t1", "t1ce", "t2")


def deploy(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(RUN), *map(str, arguments)], cwd="/", env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def environment() -> None:
    """The environment of MONAI Deploy, made where it is not there yet; the test is skipped where it cannot be."""
    made = deploy("--install-only")
    if made.returncode != 0:
        pytest.skip(f"the environment of MONAI Deploy could not be made: {made.stderr.strip()[-400:]}")


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """A small bundle with weights, and its TorchScript file."""

    def make(name: str) -> tuple[Path, Path]:
        bundle, weights = small_bundle(tmp_path, name)
        return bundle, export_network(bundle, "torchscript", tmp_path / "model.ts", weights).path

    return make


def images_of(data: PhantomFolders) -> list[Path]:
    """A case to infer on: one file, or one for each sequence."""
    single = sorted(data.image_dir.glob("*.nii.gz"))[:1]
    return single or [next(data.image_dir.glob(f"*/*_{name}.nii.gz")) for name in SEQUENCES]


def infer(monai_run: Callable, bundle: Path, data: PhantomFolders, work: Path) -> NDArray[np.uint8]:
    """The mask of the bundle's inference config."""
    (weights,) = work.glob("*/model.pt")
    places = {"output_dir": work / "bundle_masks", "ckpt_dir": weights.parent, "image_dir": data.image_dir}
    done = monai_run(bundle, ["inference"], work, dataset_dir=data.dataset_dir, **places)
    assert done.returncode == 0, done.stderr
    (mask,) = (work / "bundle_masks").rglob("*.nii.gz")
    return np.asarray(nib.Nifti1Image.from_filename(mask).dataobj)


def with_square_pixels(image: nib.Nifti1Image) -> nib.Nifti1Image:
    placed = nib.as_closest_canonical(image)
    affine = placed.affine.copy()
    affine[0, 0] = affine[1, 1] = 7.0
    return nib.Nifti1Image(np.asarray(placed.dataobj), affine)


def write_dicom(image: nib.Nifti1Image, folder: Path, series: str = "1.2.3.4") -> None:
    """A CT as one DICOM series, its voxel axes along those of the patient."""
    pydicom = pytest.importorskip("pydicom")
    folder.mkdir(exist_ok=True)
    # DICOM's axes point left and back
    placed = nib.as_closest_canonical(image)
    voxels = np.asarray(placed.dataobj).astype(np.int16)[::-1, ::-1]
    spacing = placed.header.get_zooms()
    corner = placed.affine @ [voxels.shape[0] - 1, voxels.shape[1] - 1, 0, 1]
    for z in range(voxels.shape[2]):
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = pydicom.uid.CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"{series}.{z + 1}"
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", series, "1.2.9"
        ds.Modality, ds.PatientName, ds.PatientID, ds.InstanceNumber = "CT", "Phantom", "0", z + 1
        ds.ImagePositionPatient = [round(-corner[0], 6), round(-corner[1], 6), round(corner[2] + z * spacing[2], 6)]
        ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], [float(spacing[1]), float(spacing[0])]
        ds.SliceThickness, ds.SamplesPerPixel, ds.PhotometricInterpretation = float(spacing[2]), 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        plane = np.ascontiguousarray(voxels[:, :, z].T)
        ds.Rows, ds.Columns = plane.shape
        ds.PixelData = plane.tobytes()
        ds.save_as(folder / f"{z}.dcm", enforce_file_format=True)


@pytest.mark.full
@pytest.mark.parametrize("name", ["msd_spleen_unet", "brats2020_unet", "btcv_swinunetr"])
def test_mask_of_monai_deploy_is_that_of_the_bundle(
    name: str, environment: None, model: Callable, monai_run: Callable, tmp_path: Path
) -> None:
    bundle, script = model(name)
    data = small_phantoms(tmp_path / "data", name.rpartition("_")[0])
    expected = infer(monai_run, bundle, data, tmp_path)
    images = images_of(data)
    done = deploy(script, tmp_path / "deploy masks", *images)
    assert done.returncode == 0, done.stdout + done.stderr
    (mask,) = (tmp_path / "deploy masks").glob("*.nii.gz")
    assert done.stdout.splitlines()[-1] == str(mask)
    written, given = nib.Nifti1Image.from_filename(mask), nib.Nifti1Image.from_filename(images[0])
    np.testing.assert_allclose(written.affine, given.affine, atol=1e-5)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected)
    if len(images) > 1:
        sequences = [np.asarray(nib.Nifti1Image.from_filename(image).dataobj) for image in images]
        nib.save(nib.Nifti1Image(np.stack(sequences, axis=-1), given.affine), tmp_path / "all.nii.gz")
        done = deploy(script, tmp_path, tmp_path / "all.nii.gz")
        assert done.returncode == 0, done.stdout + done.stderr
        stacked = nib.Nifti1Image.from_filename(tmp_path / "all_seg.nii.gz")
        np.testing.assert_array_equal(np.asarray(stacked.dataobj), expected)


@pytest.mark.full
def test_dicom_series_gives_the_mask_of_the_same_image(
    environment: None, model: Callable, monai_run: Callable, tmp_path: Path
) -> None:
    bundle, script = model("msd_spleen_unet")
    data = small_phantoms(tmp_path / "data", "msd_spleen")
    path, series = images_of(data)[0], tmp_path / "series"
    given = with_square_pixels(nib.Nifti1Image.from_filename(path))
    nib.save(given, path)
    expected = infer(monai_run, bundle, data, tmp_path)
    write_dicom(given, series)
    done = deploy(script, tmp_path / "masks", series)
    assert done.returncode == 0, done.stdout + done.stderr
    written = nib.as_closest_canonical(nib.Nifti1Image.from_filename(tmp_path / "masks" / "series_seg.nii.gz"))
    np.testing.assert_allclose(written.affine, given.affine, atol=1e-3)
    # positions have 6 decimals in the series: voxels at a border may fall to the other side
    different = np.mean(np.asarray(written.dataobj) != expected)
    assert different < 1e-3, different


@pytest.mark.full
def test_series_that_the_sdk_would_misplace_are_refused(environment: None, model: Callable, tmp_path: Path) -> None:
    _, script = model("msd_spleen_unet")
    oblong = nib.Nifti1Image.from_filename(images_of(small_phantoms(tmp_path / "data", "msd_spleen"))[0])
    series = {name: tmp_path / name for name in ("oblong", "gap", "two")}
    write_dicom(oblong, series["oblong"])
    for name in ("gap", "two"):
        write_dicom(with_square_pixels(oblong), series[name])
    (series["gap"] / "9.dcm").unlink()
    write_dicom(with_square_pixels(oblong), series["two"] / "more", "1.2.3.5")
    for name, message in {
        "oblong": "pixels must be square",
        "gap": "evenly spaced slices",
        "two": "must hold one DICOM series, got 2: 1.2.3.",
    }.items():
        done = deploy(script, tmp_path / "masks", series[name])
        assert done.returncode == 1 and message in done.stderr, done.stderr
    assert not (tmp_path / "masks").exists()


@pytest.mark.full
def test_mistakes_are_named(environment: None, model: Callable, tmp_path: Path) -> None:
    _, script = model("brats2020_unet")
    images = images_of(small_phantoms(tmp_path / "data", "brats2020"))
    for arguments, message in (
        ((tmp_path / "no.ts", tmp_path, images[0]), f"no TorchScript file at {tmp_path}/no.ts: python -m hybridmim"),
        ((script, tmp_path, tmp_path / "no.nii"), "there is no image"),
        ((script, tmp_path, images[0]), "takes 4 channel(s) (flair, t1, t1ce, t2), got 1"),
        ((script, tmp_path, script), "image must be a NIfTI file (.nii, .nii.gz) or a folder"),
    ):
        done = deploy(*arguments)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_help_and_missing_arguments_install_nothing() -> None:
    assert deploy("--help").stdout.startswith("Usage: ci/monai_deploy/run.sh MODEL OUTPUT IMAGE")
    done = deploy("model.ts")
    assert done.returncode == 2 and "name MODEL, OUTPUT and IMAGE" in done.stderr
