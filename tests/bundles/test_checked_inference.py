# SPDX-License-Identifier: Apache-2.0

"""checked_inference.json laid over inference.json segments what it can and names the rest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_series import write_series
from monai.bundle import ConfigParser
from render_bundles import bundle_name
from torch import nn

from hybridmim_components.inference import require_trained_settings
from hybridmim_components.phantoms import write_phantoms
from hybridmim_components.system.errors import root_cause
from hybridmim_components.weights import save_weights

#: It holds weights.
BUNDLE = Path(__file__).parents[2] / "bundles" / bundle_name("msd_hippocampus", "unet")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two phantoms, and the first again with two channels and as a DICOM series."""
    folder = tmp_path / "images"
    given = write_phantoms("msd_hippocampus", tmp_path / "phantoms", 1, 2, 1).image_dir
    shutil.copytree(given, folder)
    first = nib.load(sorted(folder.iterdir())[0])
    voxels = np.asarray(first.dataobj)
    nib.save(nib.Nifti1Image(np.stack([voxels, voxels], -1), first.affine), folder / "two_channels.nii.gz")
    write_series(folder / "patient.1" / "DICOM", (voxels / voxels.max() * 1000).astype(np.int16))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("overlays", [["checked"], ["frugal", "checked"], ["checked", "frugal"]], ids="+".join)
def test_the_good_ones_get_masks_and_the_end_names_the_others(
    images: Path, overlays: list[str], monai_run: Callable[..., Any], tmp_path: Path
) -> None:
    configs = ["inference", *(f"{overlay}_inference" for overlay in overlays)]
    places = {"image_dir": images, "output_dir": tmp_path / "masks"}
    done = monai_run(BUNDLE, configs, tmp_path, **places, device="cpu")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    message = "error: 1 of 4 image(s) could not be used and have no mask, the reasons are above:"
    assert f"{message}\n  {images}/two_channels.nii.gz" in done.stderr
    assert "got 2 channel(s) of the shape" in done.stdout + done.stderr
    good = [path for path in images.glob("*.nii.gz") if path.name != "two_channels.nii.gz"]
    wanted = {path.name.replace(".nii.gz", "_seg.nii.gz") for path in good} | {"patient.1_DICOM_seg.nii.gz"}
    assert {path.name for path in (tmp_path / "masks").glob("*.nii.gz")} == wanted
    for path in good:
        mask = nib.load(tmp_path / "masks" / path.name.replace(".nii.gz", "_seg.nii.gz"))
        assert mask.shape == nib.load(path).shape


@pytest.mark.slow
def test_an_output_dir_that_cannot_be_written_is_refused_before_any_image_is_read(
    images: Path, monai_run: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    places = {"image_dir": images, "output_dir": tmp_path / "file" / "masks"}
    done = monai_run(BUNDLE, ["inference", "checked_inference"], tmp_path, **places, device="cpu")
    message = f"error: output_dir must be a folder that can be written, got {tmp_path}/file"
    assert done.returncode == 1 and message in done.stderr and "volume(s)" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_spacing_other_than_in_training_is_refused_before_any_image_is_read(
    images: Path, monai_run: Callable[..., Any], tmp_path: Path
) -> None:
    places = {"image_dir": images, "output_dir": tmp_path / "masks"}
    done = monai_run(BUNDLE, ["inference", "checked_inference"], tmp_path, **places, device="cpu", spacing=[2, 2, 2])
    message = f"error: inference needs the settings of training ({BUNDLE}/models/model.pt), but spacing was "
    assert (
        done.returncode == 1
        and f"{message}[1.0, 1.0, 1.0], is [2, 2, 2]" in done.stderr
        and "volume(s)" not in done.stdout + done.stderr
    )


def test_weights_of_another_network_or_none_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network, path = nn.Linear(2, 1), tmp_path / "models" / "model.pt"
    with pytest.raises(FileNotFoundError, match="no weights at .*model.pt: .*, or set ckpt_dir"):
        require_trained_settings(network, path, {})
    path.parent.mkdir()
    save_weights(path, nn.Linear(3, 1), {"spacing": [1, 1, 1]}, bare=True)
    with pytest.raises(ValueError, match="weights must fit network_def"):
        require_trained_settings(network, path, {"spacing": [1, 1, 1]})
    save_weights(path, network, {"spacing": [1, 1, 1], "epochs": 3}, bare=True)
    require_trained_settings(network, path, {"spacing": (1.0, 1.0, 1.0), "intensity_range": [0, 1]})
    assert not caplog.records
    save_weights(path, network, {"modalities": ["t1", "t1ce"]}, bare=True)
    require_trained_settings(network, path, {}, {"modalities": ["t1n", "t1c"]})
    assert "In training, modalities was ['t1', 't1ce'], is ['t1n', 't1c']: make sure" in caplog.text
    path.with_suffix(".json").unlink()
    require_trained_settings(network, path, {"spacing": [2, 2, 2]})
    assert "model.pt has no recipe beside it: its settings and what it has seen are unknown" in caplog.text


def test_weights_at_another_place_are_those_that_are_compared(tmp_path: Path) -> None:
    for bundle in ("msd_hippocampus", "btcv", "brats2020"):
        configs = BUNDLE.parent / bundle_name(bundle, "unet") / "configs"
        files = [str(configs / f"{name}.json") for name in ("inference", "checked_inference")]
        parser = ConfigParser(ConfigParser.load_config_files(files))
        parser["handlers#0#load_path"] = str(tmp_path / "best.pt")
        with pytest.raises(RuntimeError) as error:
            parser.get_parsed_content("trained_settings")
        assert f"no weights at {tmp_path}/best.pt" in str(root_cause(error.value))
