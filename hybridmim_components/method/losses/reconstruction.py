# SPDX-License-Identifier: Apache-2.0

"""Pixel level of HybridMIM: squared error of the masked voxels inside the partial region."""

from __future__ import annotations

from torch import Tensor

__all__ = ["masked_squared_error", "partial_region_loss"]


def masked_squared_error(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean squared error of each sample over its masked voxels; 0 for a sample without any.

    Args:
        prediction: (B, C, *spatial).
        target: (B, C, *spatial).
        mask: boolean (B, 1, *spatial), True where a voxel is masked. Only the mask decides which voxels count.

    Returns:
        Tensor (B,) in float32, since float16 cannot count the voxels of a crop.

    Example:
        >>> image, mask = torch.zeros(1, 1, 2), torch.tensor([[[True, False]]])
        >>> masked_squared_error(image + torch.tensor([3.0, 100.0]), image, mask)
        tensor([9.])
    """
    weight = mask.expand_as(target).float()
    error = ((prediction.float() - target.float()) ** 2 * weight).flatten(1).sum(1)
    return error / weight.flatten(1).sum(1).clamp(min=1)


def partial_region_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_PR: :func:`masked_squared_error` averaged over the batch.

    The mean over samples makes the gradients of equal micro-batches average to that of the whole batch. See Xing et
    al., section 3.2, https://arxiv.org/abs/2303.10333. Shapes as in :func:`masked_squared_error`.

    Example:
        >>> image, mask = torch.zeros(2, 1, 2), torch.tensor([[[True, False]], [[True, True]]])
        >>> partial_region_loss(image + 2, image, mask)
        tensor(4.)
    """
    return masked_squared_error(prediction, target, mask).mean()
