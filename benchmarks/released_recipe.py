# SPDX-License-Identifier: Apache-2.0

"""A pre-training step of the released recipe (https://github.com/ge-xing/HybridMIM, 2023), for pretraining_step.py.

:class:`ReleasedStep` is a new implementation of its arithmetic on a stock MONAI network, including its defects: masking
by shuffled patches, labels counted patch by patch in Python, masked voxels found by their value, one fixed region,
element-wise dropout. It differs from the release as it is: the network has dropout in every stage of its encoder, and
its bottleneck is as small as ours. :class:`AuthorsStep` runs the authors' own model and losses, from a checkout of
their repository. The release leaves anomaly detection on, which makes each step even slower; here it is off.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybridmim_components.method.masking import MaskGrid
from hybridmim_components.method.partial_region import choose_region
from hybridmim_components.networks import backbone_of

MASK_RATIO, TEMPERATURE = 0.4, 0.5


class ReleasedStep(nn.Module):
    """Module that computes the total loss of a batch of crops (B, 1, 96, 96, 96)."""

    def __init__(self, network: nn.Module, grid: MaskGrid) -> None:
        super().__init__()
        self.network, self.grid, self.backbone = network, grid, backbone_of(network)
        in_channels, bottleneck, decoded = self.backbone.channels(network)
        self.pixel_head = nn.Conv3d(decoded, in_channels, 1)
        self.number_head = nn.Linear(bottleneck, 9)
        self.location_head = nn.Linear(bottleneck, 8)
        self.contrast_head = nn.Linear(bottleneck, 384)

    def forward(self, image: Tensor) -> Tensor:
        """Return the weighted sum of the five terms."""
        masked, mask = hide_patches(image)
        numbers, places = count_patches(mask), place_patches(mask)
        region = choose_region(self.grid, "corner")
        features = self.backbone.encode(self.network, masked)
        logits = self.pixel_head(self.backbone.decode(self.network, [region.crop(f) for f in features]))
        tokens = F.adaptive_avg_pool3d(features[-1], 3).flatten(2).transpose(1, 2)
        with torch.no_grad():
            other = self.backbone.encode(self.network, masked)[-1]
        view1, view2 = (self.contrast_head(f.flatten(2).mean(-1)) for f in (features[-1], other))
        hidden = (region.crop(masked) == 0).float()
        error = (logits.sigmoid() - region.crop(image)) ** 2
        number, location = self.number_head(tokens), self.location_head(tokens)
        placed = (location.sigmoid() > 0.5).float().sum(-1)
        consistency = F.cross_entropy(number.flatten(0, 1), placed.flatten().long())
        consistency = (consistency + F.mse_loss(placed, number.argmax(-1).float())) / 2
        return (
            (error * hidden).sum() / hidden.sum()
            + 0.1 * F.cross_entropy(number.flatten(0, 1), numbers.flatten())
            + 0.1 * F.binary_cross_entropy_with_logits(location, places)
            + 0.01 * consistency
            + 0.1 * contrast(view1, view2)
        )


class AuthorsStep(nn.Module):
    """Module that computes the total loss by the authors' own code, with the settings of their main.py.

    Args:
        release: checkout of their repository; nothing of it is in this project.
        backbone: ``unet`` or ``swinunetr``.
    """

    def __init__(self, release: Path, backbone: str) -> None:
        super().__init__()
        sys.path.insert(0, str(release / "Pretrain"))
        self.losses = import_module("losses.loss")
        common: dict[str, Any] = {"in_channels": 1, "out_channels": 1, "pretrain": True}
        if backbone == "unet":
            pools, region = ((2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 1)), [[4, 4, 4], [12, 12, 12]]
            settings: dict[str, Any] = {"features": [64, 64, 128, 256, 512], "dropout": 0.1}
            settings |= {"pool_size": pools, "select_reconstruct_region": region}
            self.network = import_module("pretrain_models.deep_unet_v2").DeepUNet(**common, **settings)
        else:
            settings = {"img_size": (96, 96, 96), "feature_size": 48, "select_reconstruct_region": (1, 3)}
            self.network = import_module("pretrain_models.swinunetr").SwinUNETR(**common, **settings, drop_rate=0.1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the weighted sum of the five terms."""
        found, losses = self.network(image), self.losses
        number, location = found["pred_mask_region"], found["pred_mask_region_position"]
        placed = (location.sigmoid() > 0.5).float().sum(-1)
        consistency = losses.forward_loss_mask(number, placed) + F.mse_loss(placed, number.argmax(-1).float())
        error = losses.forward_loss_reconstruct_mask(found["logits"].sigmoid(), found["images"], found["x_mask"])
        return (
            error
            + 0.1 * losses.forward_loss_mask(number, found["mask_labels"])
            + 0.1 * losses.forward_loss_mask_position(location, found["mask_position_lables"])
            + 0.01 * consistency / 2
            + 0.1 * losses.forward_constrast_loss(found["contrast_pred_1"], found["contrast_pred_2"])
        )


def hide_patches(image: Tensor) -> tuple[Tensor, Tensor]:
    """Set 40 % of the crops' 16^3 patches to 0; return the crops and the mask (B, 216) of floats."""
    batch, side = len(image), image.shape[-1] // 16
    patches = image.reshape(batch, side, 16, side, 16, side, 16).permute(0, 1, 3, 5, 2, 4, 6).flatten(1, 3).flatten(2)
    kept = int(patches.shape[1] * (1 - MASK_RATIO))
    order = torch.rand(patches.shape[:2]).argsort(1)
    back = order.argsort(1)
    visible = patches.gather(1, order[:, :kept, None].expand(-1, -1, patches.shape[2]))
    filled = torch.cat([visible, patches.new_zeros(batch, patches.shape[1] - kept, patches.shape[2])], 1)
    filled = filled.gather(1, back[:, :, None].expand(-1, -1, patches.shape[2]))
    masked = filled.reshape(batch, side, side, side, 16, 16, 16).permute(0, 1, 4, 2, 5, 3, 6).reshape(image.shape)
    return masked, (back >= kept).float()


def count_patches(mask: Tensor) -> Tensor:
    """Count the masked patches in each run of 8, (B, 27), with a separate read from the device for each count."""
    return torch.tensor([[int(row[i : i + 8].sum().item()) for i in range(0, len(row), 8)] for row in mask])


def place_patches(mask: Tensor) -> Tensor:
    """Divide the mask into runs of 8, (B, 27, 8), patch by patch."""
    places = torch.zeros(len(mask), 27, 8)
    for sample in range(len(mask)):
        for patch in range(mask.shape[1]):
            places[sample, patch // 8, patch % 8] = mask[sample, patch]
    return places


def contrast(view1: Tensor, view2: Tensor) -> Tensor:
    """Return NT-Xent of two views (B, F)."""
    views = F.normalize(torch.cat([view1, view2]), dim=1)
    similarity = (views @ views.T) / TEMPERATURE
    similarity = similarity.masked_fill(torch.eye(len(views), dtype=torch.bool), float("-inf"))
    partner = torch.arange(len(views)).roll(len(view1))
    return F.cross_entropy(similarity, partner)
