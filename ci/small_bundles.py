# SPDX-License-Identifier: Apache-2.0

"""Bundles shrunk for tests on a CPU: few channels, small crops, coarse voxels, one short epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from render_bundles import SOURCE, bundle_name, combinations, format_json, render_bundle
from torch import nn

from hybridmim_components.networks.backbones import backbone_of
from hybridmim_components.phantoms import PhantomFolders, write_phantoms
from hybridmim_components.weights import save_weights

NAMES = [f"{dataset}_{backbone}" for dataset, backbone in combinations(SOURCE)]
_NETWORKS: dict[str, dict[str, Any]] = {
    "dynunet": {
        "spatial_dims": 3,
        "kernel_size": [3, 3, 3, 3],
        "strides": [1, 2, 2, 2],
        "upsample_kernel_size": [2, 2, 2],
        "filters": [4, 4, 8, 8],
        "norm_name": ["INSTANCE", {"affine": True}],
        "dropout": 0.1,
        "_target_": "DynUNet",
    },
    "unet": {"spatial_dims": 3, "features": [4, 4, 4, 8, 8, 4], "dropout": 0.1, "_target_": "BasicUNet"},
    "swinunetr": {"feature_size": 12, "depths": [1, 1, 1, 1], "drop_rate": 0.1, "_target_": "SwinUNETR"},
}
_CROPS = {"dynunet": [48, 48, 48], "unet": [48, 48, 48], "swinunetr": [64, 64, 64]}
_MASKING = {
    **dict.fromkeys(("dynunet", "unet"), {"subvolume_size": [16, 16, 16], "patch_size": [8, 8, 8]}),
    "swinunetr": {"subvolume_size": [32, 32, 32], "patch_size": [16, 16, 16]},
}
_GRIDS: dict[str, dict[str, Any]] = {
    "brats2020": {"size": (36, 44, 36), "spacing": (4.4, 4.0, 4.2)},
    "msd_hippocampus": {},
    "msd_spleen": {"size": (40, 40, 32), "spacing": (7.0, 7.0, 8.0)},
}
_SPACINGS = {"brats2020": 5.0, "msd_hippocampus": 1.0}
# MONAI Label sets only the number of epochs, so the bundle itself must make an epoch short
_SCHEDULE: dict[str, Any] = {
    "epochs": 1,
    "steps_per_epoch": 3,
    "val_interval": 1,
    "batch_size": 2,
    "crops_per_volume": 1,
}
_SCHEDULE |= {"num_workers": 0, "cache": "none", "learning_rate": 0.01, "warmup_steps": 0}


def small_bundle(folder: Path, name: str) -> tuple[Path, Path]:
    """Render a bundle with a small network and small settings.

    Args:
        folder: folder for the bundle and, beside it, its weights ``NAME/model.pt``.
        name: name of the bundle, such as ``msd_spleen_unet``.

    Returns:
        Folder of the bundle, which has no weights, and file of its untrained weights, which give more than one label.
    """
    dataset, _, backbone = name.rpartition("_")
    bundle = folder / bundle_name(dataset, backbone)
    network_def = {"in_channels": "{{in_channels}}", "out_channels": "{{out_channels}}", **_NETWORKS[backbone]}
    for place, text in render_bundle(SOURCE, dataset, backbone, {"network_def": network_def}).items():
        path = bundle / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_smaller(path.stem, text, dataset, backbone), encoding="utf-8")
    weights = folder / name / "model.pt"
    save_weights(weights, _untrained(bundle, _CROPS[backbone]), {"seed": 0}, bare=True)
    return bundle, weights


def small_phantoms(root: Path, dataset: str, num_training: int = 6) -> PhantomFolders:
    """Write phantoms that a small bundle needs seconds for: labelled ones, one to infer on, and two unlabelled ones."""
    return write_phantoms(dataset, root, num_training, 1, 2, **_GRIDS.get(dataset, _GRIDS["msd_spleen"]))


def _smaller(step: str, text: str, dataset: str, backbone: str) -> str:
    if step not in ("pretrain", "train", "inference"):
        return text
    config = json.loads(text)
    config |= {"roi_size": _CROPS[backbone], "spacing": [_SPACINGS.get(dataset, 6.0)] * 3}
    config |= _SCHEDULE if step != "inference" else {}
    config |= _MASKING[backbone] if step == "pretrain" else {}
    return format_json(config) + "\n"


def _untrained(bundle: Path, crop: list[int]) -> nn.Module:
    """Build a network with logits around 0 in all channels, so that every label occurs and none fills the image."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def").eval()
    channels = parser.get_parsed_content("network_def#in_channels")
    layer = backbone_of(network).output_layer
    (bias,) = (p for name, p in network.named_parameters() if name.startswith(layer) and name.endswith("bias"))
    with torch.no_grad():
        image = torch.linspace(0, 1, crop[-1]).expand(1, channels, *crop)
        bias -= network(image).flatten(2).median(dim=2).values[0]
    return network
