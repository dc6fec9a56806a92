# SPDX-License-Identifier: Apache-2.0

"""Pre-processed phantom crops, and the comparison of two runtimes' logits for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from hybridmim_components.deployment.trained_bundle import TrainedBundle
from hybridmim_components.phantoms.anatomy import abdomen_phantom
from hybridmim_components.phantoms.brain import MODALITIES, brain_phantom
from hybridmim_components.phantoms.hippocampus import hippocampus_phantom

__all__ = ["Comparison", "compare", "phantom_images"]


@dataclass(frozen=True)
class Comparison:
    """Difference between the logits of two runtimes.

    Example:
        >>> Comparison(0.0002, 1.0).worst(Comparison(0.0001, 0.999))
        Comparison(max_difference=0.0002, agreement=0.999)
    """

    max_difference: float
    """Largest absolute difference."""
    agreement: float
    """Share of the voxels that get the same label."""

    def worst(self, other: Comparison) -> Comparison:
        """Return the worse of both values, field by field."""
        return Comparison(max(self.max_difference, other.max_difference), min(self.agreement, other.agreement))


def compare(expected: Tensor, logits: Tensor, overlapping: bool) -> Comparison:
    """Compare logits (B, C, H, W, D) with those of PyTorch.

    Args:
        expected: logits of PyTorch.
        logits: logits of the exported file.
        overlapping: whether each channel has a threshold of its own; otherwise the largest channel is the label.

    Raises:
        ValueError: when the shapes differ.

    Example:
        >>> expected = torch.tensor([2.0, 0.0, 1.0, 0.5]).reshape(1, 2, 2, 1, 1)  # two channels of two voxels
        >>> compare(expected, expected + 0.25, overlapping=False)
        Comparison(max_difference=0.25, agreement=1.0)
        >>> compare(expected, expected - 0.5, overlapping=True)  # the second voxel gets no label any more
        Comparison(max_difference=0.5, agreement=0.5)
    """
    if expected.shape != logits.shape:
        raise ValueError(f"logits must have the shape {tuple(expected.shape)}, got {tuple(logits.shape)}")
    # NaN counts as an infinite difference, even if PyTorch gives NaN too
    difference = (expected.double() - logits.double()).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    labels = [x > 0 if overlapping else x.argmax(1, keepdim=True) for x in (expected, logits)]
    same = (labels[0] == labels[1]).all(1)
    return Comparison(float(difference.max()), float(same.double().mean()))


def phantom_images(bundle: TrainedBundle, batch_size: int, size: Sequence[int], seed: int = 0) -> Tensor:
    """Draw phantoms in the size of a crop, with the intensities that the bundle's own pre-processing gives.

    Args:
        bundle: the bundle. Its metadata give the modality and the sequences, its config gives the pre-processing.
        batch_size: number of phantoms, each with a seed of its own.
        size: voxels (H, W, D).
        seed: seed of the first phantom.

    Returns:
        Images (B, C, H, W, D).

    Example:
        >>> from hybridmim_components.weights import save_weights
        >>> save_weights("model.pt", BasicUNet(features=(4, 4, 4, 4, 4, 4)), {})
        >>> overrides = {"network_def#features": [4, 4, 4, 4, 4, 4]}
        >>> folder = "bundles/hybridmim_msd_spleen_unet_segmentation"
        >>> bundle = TrainedBundle.load(folder, "model.pt", overrides=overrides)
        >>> images = phantom_images(bundle, batch_size=2, size=(16, 16, 16))
        >>> tuple(images.shape), images.min().item(), images.max().item()  # HU scaled to 0..1
        ((2, 1, 16, 16, 16), 0.0, 1.0)
    """
    steps = bundle.config["preprocessing"]["transforms"]
    parser = ConfigParser({**bundle.config, "intensities": [s for s in steps if "Intensity" in s["_target_"]]})
    transforms = parser.get_parsed_content("intensities")
    images = []
    for index in range(batch_size):
        data = {"image": torch.from_numpy(_draw(bundle, size, seed + index).astype(np.float32))}
        for transform in transforms:
            data = transform(data)
        images.append(torch.as_tensor(data["image"]))
    return torch.stack(images)


def _draw(bundle: TrainedBundle, size: Sequence[int], seed: int) -> np.ndarray:
    """Draw an image (C, H, W, D) with the intensities of a scanner."""
    rng, image = np.random.default_rng(seed), bundle.image_format
    if image["modality"] == "MR":
        names = list(image["channel_def"].values())
        if not set(names) <= set(MODALITIES):
            return np.stack([hippocampus_phantom(rng, size, (1.0, 1.0, 1.0))[0] for _ in names])
        return brain_phantom(rng, size)[0][[MODALITIES.index(name) for name in names]]
    return np.stack([abdomen_phantom(rng, size)[0] for _ in range(image["num_channels"])])
