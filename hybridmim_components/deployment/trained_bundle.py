# SPDX-License-Identifier: Apache-2.0

"""Input of an export: a bundle's inference config, its metadata and its trained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNet, DynUNet
from torch import nn

from hybridmim_components.networks.backbones import backbone_of
from hybridmim_components.system.overrides import find_unknown
from hybridmim_components.weights import how_to_get_weights, read_weights, recipe_differences
from hybridmim_components.weights.check import require_fitting_state

__all__ = ["TrainedBundle"]

# Networks whose exported file takes crops of any size. Every other network is exported for one size: SwinUNETR
# computes the windows and masks of its attention in Python from the size of the crop, so that they become constants.
RESIZABLE = (BasicUNet, DynUNet)
_PREPROCESSING = ("spacing", "intensity_range", "clip_percentiles")


@dataclass(frozen=True)
class TrainedBundle:
    """A bundle's network with trained weights, on the CPU in evaluation mode, and the settings that belong to it.

    Example:
        >>> from hybridmim_components.weights import save_weights
        >>> save_weights("model.pt", BasicUNet(features=(4, 4, 4, 4, 4, 4)), {})
        >>> overrides = {"network_def#features": [4, 4, 4, 4, 4, 4]}
        >>> folder = "bundles/hybridmim_msd_spleen_unet_segmentation"
        >>> bundle = TrainedBundle.load(folder, "model.pt", roi_size=(32, 32, 32), overrides=overrides)
        >>> bundle.roi_size, bundle.stride, bundle.resizable, bundle.out_channels
        ((32, 32, 32), 16, True, 2)
    """

    network: nn.Module
    config: dict[str, Any]
    """Content of inference.json, not evaluated: overrides are applied, loading and channel order are separate steps."""
    metadata: dict[str, Any]
    """Content of metadata.json, with the size of the crops that the network is exported for."""
    weights: Path
    roi_size: tuple[int, ...]

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        weights: str | Path | None = None,
        roi_size: Sequence[int] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> TrainedBundle:
        """Build the network of ``configs/inference.json`` and load its weights.

        Args:
            bundle: folder of the bundle.
            weights: file of a fine-tuned network; default ``models/model.pt`` of the bundle.
            roi_size: crop (H, W, D) in voxels; default: that of the config.
            overrides: overrides of the config, such as ``{"network_def#features": [8, 8, 16, 32, 64, 8]}``.

        Raises:
            FileNotFoundError: when a file is missing; names the file and how to get it.
            ValueError: when an override is unknown, the crop does not fit the network, or the weights are those of
                another network, of another pre-processing or of pre-training.
        """
        root = Path(bundle)
        parser, metadata = _read(root)
        changes = dict(overrides or {}) | ({"roi_size": list(roi_size)} if roi_size else {})
        unknown = find_unknown(list(changes), parser.get())
        if unknown:
            raise ValueError(f"unknown setting: {'; '.join(unknown)}")
        for name, value in changes.items():
            parser[name] = value
        config = _split_loading({key: value for key, value in parser.get().items() if key != "_meta_"})
        path = _find_weights(root, weights)
        network = parser.get_parsed_content("network_def").cpu().float().eval()
        size = tuple(parser.get_parsed_content("roi_size"))
        _check_size(size, network)
        for entry in (*_formats(metadata, "inputs"), *_formats(metadata, "outputs")):
            entry["spatial_shape"] = list(size)
        _load(network, path, parser)
        return cls(network, config, metadata, path, size)

    @property
    def resizable(self) -> bool:
        """Whether the exported file takes crops of other sizes."""
        return isinstance(self.network, RESIZABLE)

    @property
    def stride(self) -> int:
        """Total stride of the network; the sides of a crop must be multiples of it."""
        return backbone_of(self.network).total_stride(self.network)

    @property
    def image_format(self) -> dict[str, Any]:
        """Description of the network's input in the metadata."""
        return _formats(self.metadata, "inputs")[0]

    @property
    def out_channels(self) -> int:
        """Number of channels of the logits."""
        return int(_formats(self.metadata, "outputs")[0]["num_channels"])

    @property
    def overlapping(self) -> bool:
        """Whether each channel of the logits has a threshold of its own, as in BraTS; else the largest one wins."""
        return any(step.get("sigmoid") for step in self.config["postprocessing"]["transforms"])


def _read(root: Path) -> tuple[ConfigParser, dict[str, Any]]:
    files = {name: root / "configs" / f"{name}.json" for name in ("inference", "metadata")}
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(f"bundle must be the folder of a bundle, there is no {file}")
    parser = ConfigParser()
    parser.read_config(str(files["inference"]))
    return parser, ConfigParser.load_config_file(str(files["metadata"]))


def _split_loading(config: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a config and put the channels first in a separate step, since MONAI Deploy drops loading steps."""
    copy = deepcopy(dict(config))
    steps = []
    for step in copy["preprocessing"]["transforms"]:
        steps.append(step)
        if step["_target_"] == "LoadImaged" and step.pop("ensure_channel_first", False):
            steps.append({"_target_": "EnsureChannelFirstd", "keys": step["keys"]})
    copy["preprocessing"]["transforms"] = steps
    return copy


def _formats(metadata: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    return list(metadata["network_data_format"][kind].values())


def _check_size(size: Sequence[int], network: nn.Module) -> None:
    stride = backbone_of(network).total_stride(network)
    if len(size) != 3 or any(side < 1 or side % stride for side in size):
        name = type(network).__name__
        raise ValueError(f"roi_size must be three multiples of {stride} for {name}, got {list(size)}")


def _find_weights(root: Path, weights: str | Path | None) -> Path:
    if weights is None:
        places = [root / "models" / "model.pt"]
    else:
        places = [Path(weights)] + ([] if Path(weights).is_absolute() else [root / weights])
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"no weights of a fine-tuned network at {' or '.join(str(place) for place in places)}: "
        f"{how_to_get_weights(root)}, or name a file by weights"
    )


def _load(network: nn.Module, path: Path, parser: ConfigParser) -> None:
    state, recipe = read_weights(path)
    if "mask_ratio" in recipe:
        raise ValueError(f"weights must be of a fine-tuned network, {path} is of pre-training: run train.json first")
    require_fitting_state(network, state, path, str(recipe.get("network", "")))
    # an exported file contains this pre-processing, and gives masks that are wrong without a sign of it
    settings = {key: parser.get_parsed_content(key) for key in _PREPROCESSING if key in parser}
    if differences := recipe_differences(recipe, settings):
        raise ValueError(
            f"an export needs the settings of training ({path}), but {'; '.join(differences)}: name them by overrides"
        )
    network.load_state_dict(state)
