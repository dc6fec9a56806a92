# SPDX-License-Identifier: Apache-2.0

"""Region level of HybridMIM, patch-masking perception: how many patches of a sub-volume are masked, and which."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["consistency_loss", "location_loss", "number_loss"]


def number_loss(number_logits: Tensor, mask: Tensor) -> Tensor:
    """L_Num: cross-entropy of the number of masked patches of each sub-volume.

    Args:
        number_logits: (B, S, P + 1), one class per count 0..P.
        mask: boolean (B, S, P).

    Returns:
        Scalar, the mean over samples and sub-volumes.

    Example:
        >>> mask = torch.tensor([[[True, False]]])  # one of two patches
        >>> number_loss(torch.zeros(1, 1, 3), mask), number_loss(torch.tensor([[[0.0, 99.0, 0.0]]]), mask)
        (tensor(1.0986), tensor(0.))
    """
    return F.cross_entropy(number_logits.flatten(0, 1), mask.sum(-1).flatten())


def location_loss(location_logits: Tensor, mask: Tensor) -> Tensor:
    """L_Loc: binary cross-entropy of the location of masked patches in each sub-volume.

    Args:
        location_logits: (B, S, P).
        mask: boolean (B, S, P).

    Returns:
        Scalar, the mean over samples, sub-volumes and patches.

    Example:
        >>> mask = torch.tensor([[[True, False]]])
        >>> location_loss(torch.zeros(1, 1, 2), mask)
        tensor(0.6931)
        >>> location_loss(torch.tensor([[[9.0, -9.0]]]), mask) < 0.001
        tensor(True)
    """
    return F.binary_cross_entropy_with_logits(location_logits, mask.to(location_logits.dtype))


def consistency_loss(number_logits: Tensor, location_logits: Tensor) -> Tensor:
    """L_Con: squared difference between the counts that the two heads expect, with a gradient for both heads.

    The released code compares an argmax with a thresholded sum, which gives the location head no gradient. Here
    each count is an expectation: that of the softmax over 0..P, and the sum of the P sigmoids.

    Args:
        number_logits: (B, S, P + 1).
        location_logits: (B, S, P).

    Returns:
        Scalar in squared patches, the mean over samples and sub-volumes.

    Example:
        >>> one_masked, both_masked = torch.tensor([[[0.0, 99.0, 0.0]]]), torch.tensor([[[99.0, 99.0]]])
        >>> consistency_loss(one_masked, both_masked)
        tensor(1.)
    """
    counts = torch.arange(number_logits.shape[-1], dtype=number_logits.dtype, device=number_logits.device)
    from_number = (number_logits.softmax(-1) * counts).sum(-1)
    from_location = location_logits.sigmoid().sum(-1)
    return F.mse_loss(from_number, from_location)
