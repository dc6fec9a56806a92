# Copyright 2026 HybridMIM bundles contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Dropout of the pre-training network: the source of the two views that the contrast compares."""

from __future__ import annotations

from monai.networks.blocks import ADN
from torch import nn

__all__ = ["has_dropout", "use_channel_dropout"]


def use_channel_dropout(network: nn.Module, spatial_dims: int) -> int:
    """Exchange the element-wise dropout of MONAI's convolution blocks for channel-wise dropout, in place.

    Drawing one number per channel instead of one per voxel is much cheaper, and the state dict, having no dropout
    entries, stays that of the stock network.

    Args:
        network: the network to change.
        spatial_dims: 2 or 3.

    Returns:
        Number of exchanged modules.
    """
    channel_dropout = {2: nn.Dropout2d, 3: nn.Dropout3d}[spatial_dims]
    exchanged = 0
    for block in network.modules():
        dropout = getattr(block, "D", None)
        if isinstance(block, ADN) and type(dropout) is nn.Dropout:
            block.D = channel_dropout(dropout.p)
            exchanged += 1
    return exchanged


def has_dropout(network: nn.Module) -> bool:
    """Whether any dropout layer of the network is at work in training mode."""
    kinds = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)
    return any(isinstance(m, kinds) and m.p > 0 for m in network.modules())
