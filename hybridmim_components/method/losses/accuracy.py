# SPDX-License-Identifier: Apache-2.0

"""Accuracies of the region level's two heads, which are easier to read than their losses."""

from __future__ import annotations

from torch import Tensor

__all__ = ["location_accuracy", "number_accuracy"]


def number_accuracy(number_logits: Tensor, mask: Tensor, within: int = 0) -> Tensor:
    """Compute the share of sub-volumes whose most likely number of masked patches is right.

    Args:
        number_logits: (B, S, P + 1), one class per count 0..P.
        mask: boolean (B, S, P).
        within: largest error, in patches, that counts as right.

    Returns:
        Scalar in [0, 1].

    Example:
        >>> mask = torch.tensor([[[True, True, False], [False, False, False]]])
        >>> said_2_and_1 = torch.eye(4)[None, [2, 1]]
        >>> number_accuracy(said_2_and_1, mask), number_accuracy(said_2_and_1, mask, within=1)
        (tensor(0.5000), tensor(1.))
    """
    error = (number_logits.argmax(-1) - mask.sum(-1)).abs()
    return (error <= within).float().mean()


def location_accuracy(location_logits: Tensor, mask: Tensor) -> Tensor:
    """Compute the balanced accuracy of the location: the mean of the recalls of masked and of visible patches.

    A constant answer gives 0.5, whatever the mask ratio.

    Args:
        location_logits: (B, S, P).
        mask: boolean (B, S, P).

    Returns:
        Scalar in [0, 1].

    Example:
        >>> mask = torch.tensor([[[True, False, False, False]]])
        >>> location_accuracy(-torch.ones(1, 1, 4), mask), location_accuracy(torch.tensor([[[2.0, -1, -1, 3]]]), mask)
        (tensor(0.5000), tensor(0.8333))
    """
    said = location_logits > 0
    masked_found = (said & mask).sum() / mask.sum().clamp(min=1)
    visible_found = (~said & ~mask).sum() / (~mask).sum().clamp(min=1)
    return (masked_found + visible_found) / 2
