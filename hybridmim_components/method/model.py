# SPDX-License-Identifier: Apache-2.0

"""The pre-training model of HybridMIM: a stock segmentation network between a mask and five loss terms."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import ignite.distributed as idist
import torch
from torch import Tensor, nn

from hybridmim_components.method.mask_fill import MaskFill
from hybridmim_components.method.masking import MaskGrid, expand_mask
from hybridmim_components.method.partial_region import Region, split_subvolumes
from hybridmim_components.networks.backbones import backbone_of
from hybridmim_components.networks.dropout import has_dropout

__all__ = ["OUTPUT_ACTIVATIONS", "HybridMIM"]

OUTPUT_ACTIVATIONS = ("sigmoid", "identity")
CENTER_MOMENTUM = 0.9


class HybridMIM(nn.Module):
    """Wrap a stock MONAI network for HybridMIM pre-training (Xing et al., https://arxiv.org/abs/2303.10333).

    ``model.network`` stays the stock network: it segments whole inputs, and its state dict is what fine-tuning loads.
    Only the heads and the mask's fill are added beside it. It can be any network that :mod:`.backbones` describes.

    The number and location heads see every bottleneck voxel of their sub-volume in its place: a mean over the voxels
    would not tell which of them saw a masked patch.

    The contrast compares means over all tokens, less a running mean over the samples (centring as in DINO, Caron et
    al., https://arxiv.org/abs/2104.14294). Instance normalisation gives every sample nearly the same mean; without
    centring all cosines are 1, and the contrast is constant.

    Args:
        network: a stock network that :func:`.backbones.backbone_of` knows.
        grid: sub-volumes and patches of the crops.
        mask_fill: what a masked voxel becomes, see :class:`.mask_fill.MaskFill`.
        fill_value: value for the mask fills ``constant`` and ``token``. Hardly any patch of the images should have it
            throughout.
        output_activation: ``sigmoid`` for images in 0..1, ``identity`` for z-scored ones.
        partial_region: whether to decode the region in training mode too.
        perception: whether to compute the number and location heads.
        contrast: whether to compute the second dropout view, in training mode.
        projection_size: length of the vectors that the contrast compares.
        second_view_grad: let gradient flow through the second view too (released code: no).

    Raises:
        TypeError: when the network's class is unknown.
        ValueError: when the grid does not fit the network, an option is unknown, or the contrast finds no dropout.

    Example:
        >>> network = BasicUNet(features=(4, 4, 8, 8, 16, 4), dropout=0.1)
        >>> model = HybridMIM(network, MaskGrid(48, 16, 8))
        >>> outputs = model(torch.rand(2, 1, 48, 48, 48), sample_mask(model.grid, 2), choose_region(model.grid))
        >>> {name: tuple(output.shape) for name, output in outputs.items() if name in ("reconstruction", "number")}
        {'reconstruction': (2, 1, 32, 32, 32), 'number': (2, 27, 9)}
    """

    def __init__(
        self,
        network: nn.Module,
        grid: MaskGrid,
        mask_fill: str = "constant",
        fill_value: float = -0.5,
        output_activation: str = "sigmoid",
        partial_region: bool = True,
        perception: bool = True,
        contrast: bool = True,
        projection_size: int = 384,
        second_view_grad: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone_of(network)
        strides = self.backbone.strides(network, len(grid.image_size))
        check_geometry(grid, strides, type(network).__name__)
        if output_activation not in OUTPUT_ACTIVATIONS:
            raise ValueError(f"output_activation must be one of {OUTPUT_ACTIVATIONS}, got {output_activation!r}")
        if contrast and not has_dropout(network):
            raise ValueError(
                "the contrast compares two dropout views, but the network has no dropout: "
                "set network_def's dropout (SwinUNETR: drop_rate) above 0, or contrast_weight to 0"
            )
        dims = len(grid.image_size)
        in_channels, bottleneck, decoded = self.backbone.channels(network)
        self.network = network
        self.grid = grid
        self.mask_fill = MaskFill(mask_fill, fill_value, in_channels, dims)
        self.output_activation = output_activation
        self.partial_region = partial_region
        self.second_view_grad = second_view_grad
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.reconstruction_head = convolution(decoded, in_channels, kernel_size=1)
        token = bottleneck * prod(size // stride for size, stride in zip(grid.subvolume_size, strides, strict=True))
        self.number_head = nn.Linear(token, grid.num_patches + 1) if perception else None
        self.location_head = nn.Linear(token, grid.num_patches) if perception else None
        # a bias would be the same for all samples again, which is what centring takes out
        self.projection_head = nn.Linear(bottleneck, projection_size, bias=False) if contrast else None
        self.register_buffer("projection_center", torch.zeros(bottleneck))
        self.projection_center: Tensor
        self._target_checked = False

    def apply_mask(self, x: Tensor, mask: Tensor) -> Tensor:
        """Fill the masked voxels of crops (B, C, *image_size); ``mask`` is boolean (B, S, P)."""
        return self.mask_fill(x, expand_mask(mask, self.grid))

    def forward(self, x: Tensor, mask: Tensor, region: Region) -> dict[str, Tensor]:
        """Compute the outputs that the losses compare.

        Args:
            x: unmasked crops (B, C, *image_size).
            mask: boolean (B, S, P), True = masked.
            region: partial region to decode.

        Returns:
            ``masked`` (B, C, *image_size), the input of the network; ``reconstruction`` (B, C, *region), in training
            mode only if ``partial_region`` is on; ``number`` (B, S, P + 1) and ``location`` (B, S, P), logits, if
            ``perception`` is on; ``view1`` and ``view2`` (B, F), in training mode if ``contrast`` is on.

        Raises:
            ValueError: when x is not of the grid's size, or when the first x holds values that the output activation
                cannot reach.
        """
        if tuple(x.shape[2:]) != self.grid.image_size:
            raise ValueError(f"crops must have the grid's size {self.grid.image_size}, got {tuple(x.shape[2:])}")
        self._check_target(x)
        masked = self.apply_mask(x, mask)
        contrast = self.projection_head is not None and self.training
        # before the first view keeps its activations, so that the two are never in memory together
        pooled2 = self._second_view(masked) if contrast else None
        features = self.backbone.encode(self.network, masked)
        outputs = {"masked": masked.detach()}
        if self.partial_region or not self.training:
            decoded = self.backbone.decode(self.network, [region.crop(f) for f in features])
            outputs["reconstruction"] = self._activate(self.reconstruction_head(decoded))
        if self.number_head is not None and self.location_head is not None:
            tokens = self.tokens(features[-1])
            outputs["number"] = self.number_head(tokens)
            outputs["location"] = self.location_head(tokens)
        if self.projection_head is not None and pooled2 is not None:
            pooled1 = _pool_tokens(features[-1])
            with torch.set_grad_enabled(self.second_view_grad and torch.is_grad_enabled()):
                outputs["view2"] = self.projection_head(pooled2 - self.projection_center)
            outputs["view1"] = self.projection_head(pooled1 - self.projection_center)
            self._follow_center(torch.cat([pooled1, pooled2]))
        return outputs

    def tokens(self, bottleneck: Tensor) -> Tensor:
        """Return the input of the number and location heads for each sub-volume, (B, S, values), in C order."""
        return split_subvolumes(bottleneck, self.grid)

    def _second_view(self, masked: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.second_view_grad and torch.is_grad_enabled()):
            return _pool_tokens(self.backbone.encode(self.network, masked)[-1])

    def _check_target(self, x: Tensor) -> None:
        """Refuse images that a sigmoid cannot reach. Only the first are checked, since a check waits for the device."""
        if self._target_checked or self.output_activation != "sigmoid":
            return
        self._target_checked = True
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"output_activation sigmoid needs images in 0..1, got {low:g}..{high:g}: scale them, or set identity"
            )

    def _activate(self, reconstruction: Tensor) -> Tensor:
        return reconstruction.sigmoid() if self.output_activation == "sigmoid" else reconstruction

    @torch.no_grad()
    def _follow_center(self, pooled: Tensor) -> None:
        mean = pooled.detach().mean(0).to(self.projection_center.dtype)
        if idist.get_world_size() > 1:
            mean = cast(Tensor, idist.all_reduce(mean)) / idist.get_world_size()
        # a step that is not finite is dropped later, but this mean has a memory
        mean = torch.where(mean.isfinite(), mean, self.projection_center)
        self.projection_center.lerp_(mean, 1 - CENTER_MOMENTUM)


def _pool_tokens(bottleneck: Tensor) -> Tensor:
    """Return the mean over all tokens of the bottleneck, (B, C)."""
    return bottleneck.flatten(2).mean(-1)


def check_geometry(grid: MaskGrid, strides: Sequence[int], network_name: str) -> None:
    """Refuse a grid that the network's feature maps cannot follow.

    Args:
        grid: sub-volumes and patches of the crops.
        strides: voxels of the input per voxel of the bottleneck, by axis.
        network_name: for the message.

    Raises:
        ValueError: when a sub-volume is no multiple of the stride, or the region holds one voxel of the bottleneck,
            on which instance normalisation fails.
    """
    shown = strides[0] if len(set(strides)) == 1 else tuple(strides)
    if any(size % stride for size, stride in zip(grid.subvolume_size, strides, strict=True)):
        raise ValueError(
            f"subvolume_size must be a multiple of {network_name}'s total stride {shown} on every axis, "
            f"got {grid.subvolume_size}"
        )
    region = [(2 * n + 2) // 3 * size for n, size in zip(grid.subvolume_grid, grid.subvolume_size, strict=True)]
    if prod(size // stride for size, stride in zip(region, strides, strict=True)) < 2:
        raise ValueError(
            f"the partial region must hold more than one voxel of {network_name}'s bottleneck (stride {shown}), "
            f"got a region of {tuple(region)} voxels: raise roi_size {grid.image_size}"
        )
