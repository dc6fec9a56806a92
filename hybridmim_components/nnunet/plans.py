# SPDX-License-Identifier: Apache-2.0

"""Read nnU-Net's plans: the folder of the preprocessed images, the network, and the grid of the crops."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

from hybridmim_components.method.masking import MaskGrid
from hybridmim_components.system.files import read_json_object

__all__ = ["Plan", "grid_of_plan", "network_of_plan", "preprocessing_of", "read_plan", "require_nnunet"]

NNUNET = "2.8"
PREPROCESSED = "nnUNet_preprocessed"
LEAST_SIDE = 16  # voxels of a sub-volume's longest side, as in the bundles with the smallest crops
NORMALIZATIONS = ("CTNormalization", "RGBTo01Normalization", "RescaleTo01Normalization", "ZScoreNormalization")
FILL = -2.0  # as of the bundles for z-scored MRI


@dataclass(frozen=True)
class Plan:
    """The part of one configuration of nnU-Net's plans that pre-training needs.

    Attributes:
        path: the plans file.
        configuration: such as ``3d_fullres``.
        folder: folder of the preprocessed images, ``.b2nd`` files (C, Z, Y, X) in nnU-Net's order of axes.
        in_channels: channels of an image.
        num_classes: channels of the segmentation.
        patch_size: voxels of nnU-Net's crops, in the order of the axes.
        strides: voxels of the input per voxel of the bottleneck, in the order of the axes.
        batch_size: crops per batch of nnU-Net's training.
        preprocessing: see :func:`preprocessing_of`.
    """

    path: Path
    configuration: str
    folder: Path
    in_channels: int
    num_classes: int
    patch_size: list[int]
    strides: list[int]
    batch_size: int
    preprocessing: dict[str, Any]

    @property
    def dataset(self) -> str:
        """Return the name of the data set, such as Dataset004_Hippocampus."""
        return self.path.parent.name

    @property
    def fill_value(self) -> float:
        """Return the value of masked voxels, which is below that of tissue and below the lower limit of clipped CT."""
        ends = [
            (channel["percentile_00_5"] - channel["mean"]) / max(channel["std"], 1e-8)
            for channel in self.preprocessing["intensities"].values()
        ]
        return round(min([FILL, *(end - 1 for end in ends)]), 2)


def require_nnunet() -> None:
    """Check that a version of nnU-Net is installed that this bridge supports.

    Raises:
        ValueError: when nnunetv2 is missing or of another version.
    """
    try:
        found = version("nnunetv2")
    except PackageNotFoundError:
        found = "none"
    if found.split(".")[:2] != NNUNET.split("."):
        raise ValueError(f"nnunetv2 must be >=2.8,<2.9, got {found}: pip install 'nnunetv2>=2.8,<2.9'")


def read_plan(dataset: str | int, plans: str = "nnUNetPlans", configuration: str = "3d_fullres") -> Plan:
    """Read the plans of a data set in the folder that the environment variable ``nnUNet_preprocessed`` names.

    Args:
        dataset: number or name, such as 4 or Dataset004_Hippocampus.
        plans: name of the plans, such as nnUNetResEncUNetLPlans.
        configuration: a 3D configuration of them that is not the second stage of a cascade.

    Returns:
        The plan.

    Raises:
        ValueError: when the version of nnU-Net is not supported, the data set, plans or configuration do not exist, or
            the configuration is 2D, is the second stage of a cascade, or has an unsupported network or normalisation.
            The message lists the valid names or the command to run.
    """
    require_nnunet()
    folder = _dataset_folder(str(dataset))
    path = folder / f"{plans}.json"
    if not path.is_file():
        known = ", ".join(file.stem for file in sorted(folder.glob("*lans*.json"))) or "none"
        raise ValueError(f"plans must be those of {folder.name} ({known}), got {plans}: nnUNetv2_plan_and_preprocess")
    content = read_json_object(path)
    manager, settings = _configuration(content, path, configuration)
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    description = read_json_object(folder / "dataset.json")
    schemes = settings.normalization_schemes
    if not set(schemes) <= set(NORMALIZATIONS):
        raise ValueError(f"normalisation must be one of {NORMALIZATIONS}, got {schemes} in {path}")
    strides = [prod(of_axis) for of_axis in zip(*settings.pool_op_kernel_sizes, strict=True)]
    return Plan(
        path=path,
        configuration=configuration,
        folder=folder / settings.data_identifier,
        in_channels=determine_num_input_channels(manager, settings, description),
        num_classes=manager.get_label_manager(description).num_segmentation_heads,
        patch_size=list(settings.patch_size),
        strides=strides,
        batch_size=settings.batch_size,
        preprocessing=preprocessing_of(content, settings.configuration),
    )


def preprocessing_of(content: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that two sets of images must share: axes, spacing in mm and normalisation.

    Args:
        content: content of a plans file.
        settings: one of its configurations.
    """
    schemes = settings["normalization_schemes"]
    channels = content["foreground_intensity_properties_per_channel"]
    used = {str(i): channels[str(i)] for i, scheme in enumerate(schemes) if scheme == "CTNormalization"}
    own = {name: settings[name] for name in ("spacing", "normalization_schemes", "use_mask_for_norm")}
    return {**own, "axes": content.get("transpose_forward"), "intensities": used}


def network_of_plan(
    plans_path: str | Path,
    configuration: str = "3d_fullres",
    in_channels: int = 1,
    num_classes: int = 2,
    dropout: float = 0.0,
) -> nn.Module:
    """Build the network of nnU-Net's plans with nnU-Net's own builder and initialisation.

    Args:
        plans_path: plans file.
        configuration: a 3D configuration that is not the second stage of a cascade.
        in_channels: channels of an image.
        num_classes: channels of the segmentation.
        dropout: probability of the dropout that is added to the encoder, see :func:`.nnunet_backbones.add_dropout`.

    Returns:
        A ``PlainConvUNet`` or ``ResidualEncoderUNet`` that returns only the finest segmentation. Its state dict also
        contains the output layers of deep supervision.

    Raises:
        ValueError: when the version of nnU-Net or the configuration is not supported.
    """
    require_nnunet()
    _, settings = _configuration(read_json_object(plans_path), Path(plans_path), configuration)
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    from hybridmim_components.networks.nnunet_backbones import add_dropout

    network = get_network_from_plans(
        settings.network_arch_class_name,
        settings.network_arch_init_kwargs,
        settings.network_arch_init_kwargs_req_import,
        in_channels,
        num_classes,
        deep_supervision=False,
    )
    if dropout > 0:
        add_dropout(network, dropout)
    return network


def grid_of_plan(plan: Plan) -> MaskGrid:
    """Choose crops, sub-volumes and patches for a plan.

    A sub-volume has the same number of bottleneck voxels along each axis: the smallest number that makes its longest
    side at least 16 voxels. A patch has half the size of a sub-volume along each axis. The crop is the largest one of
    whole sub-volumes that fits into nnU-Net's patch size.

    Args:
        plan: see :func:`read_plan`.

    Returns:
        The grid, its axes in nnU-Net's order.

    Raises:
        ValueError: when nnU-Net's patch size is not a multiple of the strides, or is too small to be divided.
    """
    sizes, strides = plan.patch_size, plan.strides
    if any(size % stride for size, stride in zip(sizes, strides, strict=True)):
        raise ValueError(f"patch_size must be a multiple of the strides {strides}, got {sizes} in {plan.path}")
    voxels = -(-LEAST_SIDE // max(strides))
    subvolume = [min(voxels * stride, size) for size, stride in zip(sizes, strides, strict=True)]
    crop = [size // part * part for size, part in zip(sizes, subvolume, strict=True)]
    grid = MaskGrid(crop, subvolume, [part // 2 if part % 2 == 0 else part for part in subvolume])
    if grid.num_subvolumes < 2 or grid.num_patches < 2:
        raise ValueError(
            f"patch_size must hold at least 2 sub-volumes of 2 patches, got {sizes} with the strides {strides} and "
            f"sub-volumes of {subvolume} voxels in {plan.path}"
        )
    return grid


def _dataset_folder(dataset: str) -> Path:
    root = os.environ.get(PREPROCESSED)
    if not root or not Path(root).is_dir():
        raise ValueError(f"{PREPROCESSED} must name nnU-Net's folder of preprocessed data sets, got {root}")
    pattern = f"Dataset{int(dataset):03d}_*" if dataset.isdigit() else dataset
    found = sorted(folder for folder in Path(root).glob(pattern) if folder.is_dir())
    if len(found) != 1:
        known = ", ".join(folder.name for folder in found or sorted(Path(root).glob("Dataset*"))) or "none"
        raise ValueError(f"dataset must be one of those in {root} ({known}), got {dataset}")
    return found[0]


def _configuration(content: dict[str, Any], path: Path, configuration: str) -> tuple[Any, Any]:
    """Return nnU-Net's managers of the plans and of a supported configuration."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    known = content.get("configurations", {})
    if configuration not in known:
        raise ValueError(f"configuration must be one of {', '.join(known) or 'none'}, got {configuration} in {path}")
    manager = PlansManager(content)
    settings = manager.get_configuration(configuration)
    if settings.previous_stage_name is not None:
        raise ValueError(
            f"configuration must not be the second stage of a cascade, got {configuration}: "
            "its network takes another one's segmentation in, which unlabelled images lack. Pre-train 3d_fullres"
        )
    if len(settings.patch_size) != 3:
        raise ValueError(f"configuration must be 3D, got {configuration}: 2D networks are not pre-trained here")
    name = settings.network_arch_class_name
    library, _, network = name.rpartition(".")
    if not library.startswith("dynamic_network_architectures.") or network not in (
        "PlainConvUNet",
        "ResidualEncoderUNet",
    ):
        raise ValueError(f"the network must be PlainConvUNet or ResidualEncoderUNet, got {name} in {path}")
    return manager, settings
