# SPDX-License-Identifier: Apache-2.0

"""frugal_inference.json laid over inference.json gives the same masks, of overlapping channels too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from hybridmim_components.weights import save_weights


def segment(bundle: Any, configs: Sequence[str], tmp_path: Path, data: Any) -> nib.Nifti1Image:
    """The mask that a bundle with a small network and these configs writes."""
    output_dir = tmp_path / configs[-1]
    places = {"output_dir": output_dir, "bundle_root": bundle.path, "ckpt_dir": tmp_path, "image_dir": data.image_dir}
    workflow = ConfigWorkflow(
        [str(bundle.path / "configs" / f"{name}.json") for name in configs],
        workflow_type="infer",
        logging_file=False,
        **bundle.small("inference") | {name: str(path) for name, path in places.items()},
    )
    if not (tmp_path / "model.pt").exists():
        torch.manual_seed(0)
        network = workflow.parser.get_parsed_content("network_def")
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if name in ("final_conv.weight", "out.conv.conv.weight"):
                    tensor *= 20  # so that labels depend on the image, and few voxels are undecided
        save_weights(tmp_path / "model.pt", network, {}, bare=True)
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    (mask,) = output_dir.glob("*.nii.gz")
    return nib.load(mask)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["btcv_unet", "brats2020_unet", "msd_liver_swinunetr"])
def test_masks_are_those_of_inference_alone(name: str, spleen: Any, phantoms: Callable, tmp_path: Path) -> None:
    bundle = type(spleen)(name)
    data = phantoms(bundle.dataset)
    usual = segment(bundle, ["inference"], tmp_path, data)
    frugal = segment(bundle, ["inference", "frugal_inference"], tmp_path, data)
    assert frugal.shape == usual.shape and frugal.get_data_dtype() == np.uint8
    np.testing.assert_allclose(frugal.affine, usual.affine, atol=1e-5)
    one, other = (np.asarray(mask.dataobj) for mask in (usual, frugal))
    threshold = bundle.config("frugal_inference")["body_threshold"]
    images = [np.asarray(nib.load(path).dataobj) for path in data.image_dir.rglob("*.nii.gz")]
    # a network with random weights labels air too, which the overlay does not look at
    body = np.any([image > threshold for image in images], axis=0)
    assert len(np.unique(one[body])) > 1 and (one == other)[body].mean() >= 0.999


def network_of(bundle: Any, use_flash_attention: bool) -> torch.nn.Module:
    parser = ConfigParser(bundle.config("inference"))
    parser.update({k: v for k, v in bundle.small("inference").items() if k.startswith("network_def")})
    parser["network_def#use_flash_attention"] = use_flash_attention
    network: torch.nn.Module = parser.get_parsed_content("network_def").eval()
    return network


def test_flash_attention_changes_nothing_but_the_time(spleen: Any) -> None:
    bundle = type(spleen)("btcv_swinunetr")
    assert bundle.config("frugal_inference")["network_def#use_flash_attention"] is True
    assert "network_def#use_flash_attention" not in type(spleen)("btcv_unet").config("frugal_inference")
    usual, flash = (network_of(bundle, use_flash_attention) for use_flash_attention in (False, True))
    flash.load_state_dict(usual.state_dict())
    image = torch.rand(1, 1, 64, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(flash(image), usual(image), atol=1e-4, rtol=1e-4)
