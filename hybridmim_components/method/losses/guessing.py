# SPDX-License-Identifier: Apache-2.0

"""Losses of guessing: a term that has not fallen below its value has learnt nothing."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridmim_components.method.losses.reconstruction import masked_squared_error
from hybridmim_components.method.masking import MaskGrid, expand_mask, sample_mask
from hybridmim_components.method.partial_region import Region

__all__ = ["guessing", "visible_mean_error"]

#: Number of patches to draw. For masks of 27 x 8 patches, the entropy of the number is then accurate to 0.004.
_PATCHES = 2**20


def guessing(
    grid: MaskGrid,
    mask_ratio: float,
    mask_strategy: str,
    batch_size: int,
    crops_per_volume: int = 1,
    same_volume_negatives: bool = False,
) -> dict[str, float]:
    """Compute losses and accuracies of the best constant answers from the mask settings alone.

    A head that gives the same answer for every sub-volume reaches the entropy of its target. This is neither ln(P + 1)
    nor ln 2, since a mask ratio makes some answers more likely than others.

    Args:
        grid: sub-volumes and patches of the crops.
        mask_ratio: share of masked patches.
        mask_strategy: see :func:`.masking.sample_mask`.
        batch_size: crops of a step, over all processes.
        crops_per_volume: how many of them come from the same volume.
        same_volume_negatives: whether crops of one volume are negatives of each other.

    Returns:
        By name: ``number`` and ``location`` are entropies in nats. ``consistency`` is the variance of the number of
        masked patches: this remains if one head guesses and the other knows (if both guess, it is 0). ``contrast`` is
        the logarithm of the number of candidates. ``number_accuracy``, ``number_within_one`` and ``location_accuracy``
        are the best that a constant answer reaches. The values for the number are estimated from masks drawn with a
        fixed seed.

    Raises:
        ValueError: when a mask setting is out of range.

    Example:
        >>> guesses = guessing(MaskGrid(96, 32, 16), 0.4, "hierarchical", batch_size=4)
        >>> round(guesses["location"], 2), round(guesses["contrast"], 2), round(guesses["number_accuracy"], 2)
        (0.67, 1.95, 0.3)
    """
    generator = torch.Generator().manual_seed(0)
    samples = max(64, _PATCHES // (grid.num_subvolumes * grid.num_patches))
    mask = sample_mask(grid, samples, mask_ratio, mask_strategy, generator)
    number = mask.sum(-1).flatten()
    prior = torch.bincount(number, minlength=grid.num_patches + 1).double() / len(number)
    masked = mask.double().mean()
    excluded = 0 if same_volume_negatives else crops_per_volume - 1
    return {
        "number": float(torch.special.entr(prior).sum()),
        "location": float(torch.special.entr(torch.stack([masked, 1 - masked])).sum()),
        "consistency": float(number.double().var(correction=0)),
        "contrast": log(max(1, 2 * (batch_size - excluded) - 1)),
        "number_accuracy": float(prior.max()),
        "number_within_one": float(F.pad(prior, (1, 1)).unfold(0, 3, 1).sum(-1).max()),
        "location_accuracy": 0.5,
    }


def visible_mean_error(image: Tensor, mask: Tensor, region: Region) -> Tensor:
    """Compute the error of the masked voxels if each is guessed as the mean of its crop's visible voxels.

    Args:
        image: unmasked crops (B, C, *image_size).
        mask: boolean (B, S, P), True = masked.
        region: the partial region whose voxels count.

    Returns:
        Scalar: :func:`.masked_squared_error` of the guess, averaged over the batch.

    Example:
        >>> grid = MaskGrid(4, 2, 1)
        >>> flat = torch.ones(1, 1, 4, 4, 4)
        >>> visible_mean_error(flat, sample_mask(grid, 1), Region(grid, (0, 0, 0), (2, 2, 2)))
        tensor(0.)
    """
    hidden = expand_mask(mask, region.grid)
    axes = tuple(range(2, image.ndim))
    visible = (~hidden).float()
    mean = (image.float() * visible).sum(axes, keepdim=True) / visible.sum(axes, keepdim=True).clamp(min=1)
    target = region.crop(image).float()
    return masked_squared_error(mean.expand_as(target), target, region.crop(hidden)).mean()
