# SPDX-License-Identifier: Apache-2.0

"""Fill of masked voxels that a network can tell from any tissue."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MASK_FILLS", "MaskFill"]

MASK_FILLS = ("constant", "token", "noise", "zero")


class MaskFill(nn.Module):
    """Module that fills the masked voxels of a crop.

    A fill within the range of the images hides the mask: air, fat and lung of a clipped CT window are exactly 0, and a
    network cannot tell a patch of them from a patch that was filled with 0. A fill works if tissue hardly ever equals
    it over a whole patch; ``benchmarks/region_level.py`` compares the fills.

    Args:
        kind: ``constant``: ``value`` everywhere; ``token``: a learnt value per channel that starts at ``value``;
            ``noise``: normal noise with the mean and the standard deviation of the crop's visible voxels, per channel;
            ``zero``: 0, as in the authors' released code.
        value: the constant, or the initial value of the token, in units of the images.
        channels: channels of the images.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: when the kind is unknown.

    Example:
        >>> hidden = torch.tensor([[[True, False]]])
        >>> MaskFill("constant", -0.5)(torch.ones(1, 1, 2), hidden)
        tensor([[[-0.5000,  1.0000]]])
    """

    def __init__(self, kind: str = "constant", value: float = -0.5, channels: int = 1, spatial_dims: int = 3) -> None:
        super().__init__()
        if kind not in MASK_FILLS:
            raise ValueError(f"mask_fill must be one of {MASK_FILLS}, got {kind!r}")
        self.kind = kind
        self.value = 0.0 if kind == "zero" else value
        self.token: nn.Parameter | None = None
        if kind == "token":
            self.token = nn.Parameter(torch.full((1, channels, *[1] * spatial_dims), value))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return crops (B, C, *spatial) with their masked voxels filled; ``hidden`` is boolean (B, 1, *spatial)."""
        if self.token is not None:
            return torch.where(hidden, self.token.to(x.dtype), x)
        if self.kind == "noise":
            # the same noise at every validation, as the masks are the same too
            generator = None if self.training else torch.Generator(x.device).manual_seed(0)
            return torch.where(hidden, _noise_like_visible(x, hidden, generator), x)
        return x.masked_fill(hidden, self.value)


def _noise_like_visible(x: Tensor, hidden: Tensor, generator: torch.Generator | None) -> Tensor:
    axes, values = tuple(range(2, x.ndim)), x.float()  # float16 cannot count the voxels of a crop
    weight = (~hidden).float()
    count = weight.sum(axes, keepdim=True).clamp(min=1)
    mean = (values * weight).sum(axes, keepdim=True) / count
    deviation = (((values - mean) ** 2 * weight).sum(axes, keepdim=True) / count).sqrt()
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    return (noise * deviation + mean).to(x.dtype)
