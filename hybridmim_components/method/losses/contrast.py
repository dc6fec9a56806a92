# SPDX-License-Identifier: Apache-2.0

"""Sample level of HybridMIM: dropout-based contrastive learning between two views of each sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["contrast_loss", "require_negatives"]


def require_negatives(batch_size: int, volume: Tensor | None = None) -> None:
    """Refuse a batch in which the contrastive loss has no negatives.

    Args:
        batch_size: number of crops, B.
        volume: (B,) number of each crop's volume; crops of the same volume are not negatives of each other.

    Raises:
        ValueError: when some crop has no negative.

    Example:
        >>> require_negatives(2, volume=torch.tensor([7, 9]))
        >>> require_negatives(2, volume=torch.tensor([7, 7]))
        Traceback (most recent call last):
        ValueError: the contrastive loss needs crops of at least 2 volumes in a batch, got 2 crop(s) of 1 volume(s): ...
    """
    volumes = batch_size if volume is None else len(torch.unique(volume))
    if volumes < 2:
        raise ValueError(
            f"the contrastive loss needs crops of at least 2 volumes in a batch, got {batch_size} crop(s) of {volumes} "
            "volume(s): raise batch_size, lower crops_per_volume, set same_volume_negatives to True, "
            "or set contrast_weight to 0"
        )


def contrast_loss(view1: Tensor, view2: Tensor, temperature: float = 0.5, volume: Tensor | None = None) -> Tensor:
    """L_CL: NT-Xent (Chen et al., http://proceedings.mlr.press/v119/chen20j.html) that can leave out false negatives.

    Without ``volume`` it equals ``monai.losses.ContrastiveLoss``. MONAI's loss cannot leave out pairs, and it takes exp
    and log separately, which overflows at a low temperature.

    Args:
        view1: projections of the first view (B, F).
        view2: projections of the second view (B, F).
        temperature: divisor of the cosine similarities, above 0.
        volume: (B,) number of each crop's volume; other crops of the same volume are not used as negatives.

    Returns:
        Scalar, the mean over the 2 B projections.

    Raises:
        ValueError: when the temperature is not positive or the views have different shapes.

    Example:
        >>> views = torch.eye(4)  # crops unlike each other, both views alike
        >>> contrast_loss(views, views, temperature=0.1) < contrast_loss(views, views.roll(1, 0), temperature=0.1)
        tensor(True)
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if view1.shape != view2.shape:
        raise ValueError(f"the views must have one shape, got {tuple(view1.shape)} and {tuple(view2.shape)}")
    size = len(view1)
    views = F.normalize(torch.cat([view1, view2]).float(), dim=1)
    similarity = views @ views.T / temperature
    crop = torch.arange(2 * size, device=views.device) % size
    same_crop = crop[:, None] == crop[None, :]
    excluded = torch.eye(2 * size, dtype=torch.bool, device=views.device)
    if volume is not None:
        source = volume.to(views.device)[crop]
        excluded = excluded | ((source[:, None] == source[None, :]) & ~same_crop)
    partner = (torch.arange(2 * size, device=views.device) + size) % (2 * size)
    return F.cross_entropy(similarity.masked_fill(excluded, -torch.inf), partner)
