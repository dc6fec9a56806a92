# SPDX-License-Identifier: Apache-2.0

"""Small preprocessed data sets in nnU-Net's layout, and the environment that nnU-Net looks them up by."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

REASON = "needs nnunetv2: ./runtests.sh --full makes an environment with it (ci/nnunet/requirements.lock)"
WITHOUT_NNUNET = ("test_to_dynunet.py", "test_without_nnunet.py")
SOURCE = "dynamic_network_architectures.architectures.unet."
ISOTROPIC = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
FLAT = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]]
NETWORKS = {
    "plain": ("PlainConvUNet", ISOTROPIC),
    "residual": ("ResidualEncoderUNet", ISOTROPIC),
    "flat": ("ResidualEncoderUNet", FLAT),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs nnU-Net where it is missing."""
    if importlib.util.find_spec("nnunetv2") is not None:
        return
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name not in WITHOUT_NNUNET:
            item.add_marker(pytest.mark.skip(reason=REASON))


def architecture(
    network: str = "PlainConvUNet", strides: list[list[int]] = ISOTROPIC, two_convolutions: bool = False
) -> dict[str, Any]:
    """What nnU-Net's plans say of a small network; its default has two convolutions in every stage."""
    stages = len(strides)
    residual = network != "PlainConvUNet"
    return {
        "network_class_name": SOURCE + network,
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [4, 6, 8, 10, 12][:stages],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": strides,
            "n_blocks_per_stage" if residual else "n_conv_per_stage": [1 + two_convolutions] + [2] * (stages - 1),
            "n_conv_per_stage_decoder": [1 + two_convolutions] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(name: str, channels: int = 1, **settings: Any) -> dict[str, Any]:
    """nnU-Net's plans with the configurations 3d_fullres, 2d and a cascade."""
    full = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [32, 40, 32],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "architecture": architecture(),
        "batch_dice": False,
        **settings,
    }
    flat = {**full, "data_identifier": "nnUNetPlans_2d", "patch_size": [40, 32], "spacing": [1.0, 1.0]}
    cascade = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    intensities = {"mean": 100.0, "std": 50.0, "percentile_00_5": -200.0, "percentile_99_5": 300.0}
    return {
        "dataset_name": name,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): intensities for i in range(channels)},
        "configurations": {"2d": flat, "3d_fullres": full, "3d_cascade_fullres": cascade},
    }


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Any]:
    """Build a network from plans: plain, residual, flat, whose strides differ by axis, or nnU-Net's default."""
    from hybridmim_components.nnunet import network_of_plan

    def make(kind: str, **settings: Any) -> Any:
        path = tmp_path / f"{kind}.json"
        of_kind = architecture(two_convolutions=True) if kind == "default" else architecture(*NETWORKS[kind])
        path.write_text(json.dumps(plans("Dataset004_Small", architecture=of_kind)))
        network = network_of_plan(path, **settings)
        for name, parameter in network.named_parameters():
            if name.endswith("norm.weight"):  # nnU-Net starts residual blocks as identities, which would hide them
                torch.nn.init.ones_(parameter)
        return network

    return make


@pytest.fixture(params=list(NETWORKS))
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of network in turn."""
    return request.param


def image(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A smooth z-scored image (C, Z, Y, X)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, shape[0], *[-(-n // 6) for n in shape[1:]], generator=generator)
    return torch.nn.functional.interpolate(coarse, shape[1:], mode="trilinear")[0].numpy()


def write_image(path: Path, voxels: np.ndarray) -> None:
    """Write as nnU-Net does."""
    import blosc2

    path.parent.mkdir(parents=True, exist_ok=True)
    blosc2.asarray(np.ascontiguousarray(voxels), urlpath=str(path), mode="w", chunks=voxels.shape)


@pytest.fixture
def write_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a preprocessed data set into the folder that nnUNet_preprocessed names then; returns its folder."""
    root = tmp_path / "preprocessed"
    monkeypatch.setenv("nnUNet_preprocessed", str(root))

    def write(
        name: str = "Dataset004_Small",
        cases: int = 6,
        channels: int = 1,
        seed: int = 0,
        kind: str = "plain",
        **settings: Any,
    ) -> Path:
        settings = {"architecture": architecture(*NETWORKS[kind]), **settings}
        folder = root / name
        for number in range(cases):
            path = folder / "nnUNetPlans_3d_fullres" / f"case_{number}.b2nd"
            write_image(path, image((channels, 33 + number, 44, 30), seed + number))
            write_image(path.with_name(f"case_{number}_seg.b2nd"), np.zeros((1, 33 + number, 44, 30), np.int8))
        (folder / "nnUNetPlans.json").write_text(json.dumps(plans(name, channels, **settings)))
        description = {"channel_names": {str(i): "MRI" for i in range(channels)}, "file_ending": ".nii.gz"}
        description |= {"labels": {"background": 0, "one": 1, "two": 2}, "numTraining": cases}
        (folder / "dataset.json").write_text(json.dumps(description))
        return folder

    return write
