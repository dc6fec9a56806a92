# SPDX-License-Identifier: Apache-2.0

"""Encoder and decoder of nnU-Net's networks; importing this module registers them with ``backbone_of``.

The networks are those of dynamic-network-architectures (https://github.com/MIC-DKFZ/dynamic-network-architectures),
which nnU-Net v2 installs.
"""

from __future__ import annotations

from itertools import product
from math import prod

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, nn

from hybridmim_components.networks.backbones import Backbone, Network

__all__ = ["PlainConvUNetBackbone", "ResidualEncoderUNetBackbone", "add_dropout"]

# the decoder also contains the encoder, and a block contains its convolution twice
_ENCODERS = ("encoder", "decoder.encoder")
_CONVOLUTIONS = ("conv", "all_modules.0")


def _names(first_block: str) -> tuple[str, ...]:
    """Return all names of the first convolution's weight."""
    return tuple(f"{e}.{first_block}.{c}.weight" for e, c in product(_ENCODERS, _CONVOLUTIONS))


class PlainConvUNetBackbone(Backbone):
    """``PlainConvUNet``, the network of nnU-Net's default plans; strides may differ from axis to axis.

    All output layers, also those of deep supervision, belong to the segmentation task.
    """

    network_class = PlainConvUNet
    output_layer = "decoder.seg_layers"
    blocks: tuple[type[nn.Module], ...] = (StackedConvBlocks,)
    stem = _names("stages.0.0.convs.0")

    def total_stride(self, network: Network) -> int:  # noqa: D102
        return max(self.strides(network))

    def strides(self, network: Network, axes: int = 3) -> tuple[int, ...]:  # noqa: D102
        return tuple(prod(of_axis) for of_axis in zip(*network.encoder.strides, strict=True))

    def channels(self, network: Network) -> tuple[int, int, int]:  # noqa: D102
        features = network.encoder.output_channels
        return network.get_parameter(self.stem[0]).shape[1], features[-1], features[0]

    def encode(self, network: Network, x: Tensor) -> list[Tensor]:  # noqa: D102
        return network.encoder(x)

    def decode(self, network: Network, features: list[Tensor]) -> Tensor:  # noqa: D102
        *skips, x = features
        decoder = network.decoder
        for up, stage, skip in zip(decoder.transpconvs, decoder.stages, skips[::-1], strict=True):
            x = stage(torch.cat((up(x), skip), 1))
        return x

    def apply_output_layer(self, network: Network, feature: Tensor) -> Tensor:  # noqa: D102
        return network.decoder.seg_layers[-1](feature)


class ResidualEncoderUNetBackbone(PlainConvUNetBackbone):
    """``ResidualEncoderUNet``, the network of nnU-Net's residual encoder plans (ResEnc M, L, XL)."""

    network_class = ResidualEncoderUNet
    blocks = (StackedConvBlocks, BasicBlockD, BottleneckD)
    stem = _names("stem.convs.0")


def add_dropout(network: Network, probability: float) -> None:
    """Add dropout after every stage of the encoder, in place; the names in the state dict stay the same.

    nnU-Net's plans have no dropout, but the contrastive loss compares two views that differ by dropout.

    Args:
        network: a ``PlainConvUNet`` or ``ResidualEncoderUNet``.
        probability: probability that a value is dropped, in training mode.
    """
    for stage in network.encoder.stages:
        # a residual stage has its blocks in an inner sequence
        getattr(stage, "blocks", stage).append(nn.Dropout(probability))
