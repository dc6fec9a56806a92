# SPDX-License-Identifier: Apache-2.0

"""Descriptions of stock MONAI networks: where each divides into encoder and decoder, and how its modules are called.

To add a backbone, write a subclass of :class:`Backbone`, here or in a module that a config's ``imports`` name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

from monai.networks.blocks import UnetBasicBlock, UnetrBasicBlock, UnetResBlock, UnetrUpBlock
from monai.networks.nets import BasicUNet, DynUNet, SwinUNETR
from monai.networks.nets.basic_unet import TwoConv, UpCat
from monai.networks.nets.swin_unetr import SwinTransformerBlock
from torch import Tensor, nn

# torch types every attribute of a module as Tensor | Module, which can neither be called nor divided
Network = Any

__all__ = ["Backbone", "BasicUNetBackbone", "DynUNetBackbone", "SwinUNETRBackbone", "backbone_of", "check_crop_size"]


class Backbone(ABC):
    """Encoder, decoder and names of a stock network class, without any state and without copying its layers.

    Defining a subclass makes it known to :func:`backbone_of`.

    Example:
        >>> network = BasicUNet(features=(4, 4, 4, 4, 4, 4))
        >>> backbone, crop = backbone_of(network), torch.rand(1, 1, 32, 32, 32)
        >>> features = backbone.encode(network, crop)
        >>> [tuple(feature.shape[2:]) for feature in features]
        [(32, 32, 32), (16, 16, 16), (8, 8, 8), (4, 4, 4), (2, 2, 2)]
        >>> logits = backbone.apply_output_layer(network, backbone.decode(network, features))
        >>> torch.equal(logits, network(crop))
        True
    """

    known: ClassVar[list[Backbone]] = []

    network_class: type[nn.Module]
    """The stock class that this describes."""
    output_layer: str
    """Name prefix of the output layer, which belongs to the segmentation task alone."""
    blocks: tuple[type[nn.Module], ...]
    """Classes of the blocks that are checkpointed or compiled one by one; one inside another goes with it."""
    stem: tuple[str, ...]
    """Names of the weights whose second axis is the number of input channels, as far as a network has them."""
    largest_kept_block: int = 2**31 - 1
    """Bytes of the largest freed block that the CPU's allocator should keep, below 2**31, see :mod:`.execution`."""
    whole_strides: bool = True
    """Whether a crop must be a multiple of the total stride."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        missing = [name for name in ("network_class", "output_layer", "blocks", "stem") if not hasattr(cls, name)]
        if missing:
            raise TypeError(f"{cls.__name__} must set {', '.join(missing)}")
        Backbone.known.append(cls())

    @abstractmethod
    def total_stride(self, network: Network) -> int:
        """Voxels of the input per voxel of the bottleneck, along each axis; the largest where they differ."""

    def strides(self, network: Network, axes: int = 3) -> tuple[int, ...]:
        """Voxels of the input per voxel of the bottleneck, axis by axis; overridden where they differ."""
        return (self.total_stride(network),) * axes

    @abstractmethod
    def channels(self, network: Network) -> tuple[int, int, int]:
        """Channels of the input, of the bottleneck, and of the decoder's last feature map."""

    @abstractmethod
    def encode(self, network: Network, x: Tensor) -> list[Tensor]:
        """Feature maps (B, C_i, *spatial_i) that :meth:`decode` needs, finest first, the bottleneck last.

        It runs on whole crops, once for each view. Layers that the bottleneck does not need therefore belong in
        ``decode``.
        """

    @abstractmethod
    def decode(self, network: Network, features: list[Tensor]) -> Tensor:
        """Last feature map of the decoder, before the output layer, from what :meth:`encode` returned."""

    @abstractmethod
    def apply_output_layer(self, network: Network, feature: Tensor) -> Tensor:
        """Logits from the decoder's last feature map, so that encode, decode and this equal ``network(x)``."""


class BasicUNetBackbone(Backbone):
    """``monai.networks.nets.BasicUNet``: five levels, with a 2x max pooling before each but the first.

    Example:
        >>> network = BasicUNet(features=(4, 4, 4, 4, 4, 4))
        >>> backbone_of(network).strides(network)
        (16, 16, 16)
        >>> network(torch.rand(1, 1, 33, 20, 18)).shape  # a crop need not be a multiple of the stride
        torch.Size([1, 2, 33, 20, 18])
        >>> check_crop_size(network, (33, 20, 18))
    """

    network_class = BasicUNet
    output_layer = "final_conv"
    blocks = (TwoConv, UpCat)
    # full-resolution maps of two crops, 432 MiB at the published width, split up what is kept: 1.3 times the memory
    largest_kept_block = 3 * 2**27
    stem = ("conv_0.conv_0.conv.weight",)
    whole_strides = False

    def total_stride(self, network: Network) -> int:  # noqa: D102
        return 16

    def channels(self, network: Network) -> tuple[int, int, int]:  # noqa: D102
        return (
            network.get_submodule("conv_0.conv_0.conv").in_channels,
            network.get_submodule("down_4.convs.conv_1.conv").out_channels,
            network.get_submodule("final_conv").in_channels,
        )

    def encode(self, network: Network, x: Tensor) -> list[Tensor]:  # noqa: D102
        features = [network.conv_0(x)]
        for down in (network.down_1, network.down_2, network.down_3, network.down_4):
            features.append(down(features[-1]))
        return features

    def decode(self, network: Network, features: list[Tensor]) -> Tensor:  # noqa: D102
        *skips, x = features
        for up, skip in zip(
            (network.upcat_4, network.upcat_3, network.upcat_2, network.upcat_1), skips[::-1], strict=True
        ):
            x = up(x, skip)
        return x

    def apply_output_layer(self, network: Network, feature: Tensor) -> Tensor:  # noqa: D102
        return network.final_conv(feature)


class DynUNetBackbone(Backbone):
    """``monai.networks.nets.DynUNet``, MONAI's network of nnU-Net's kind; strides may differ from axis to axis.

    It must be built without deep supervision. Each name of a weight stands twice in its state dict, the second time
    below ``skip_layers``.

    Example:
        >>> strides = [1, 2, (2, 2, 1)]
        >>> network = DynUNet(3, 1, 2, kernel_size=[3, 3, 3], strides=strides, upsample_kernel_size=strides[1:])
        >>> backbone_of(network).strides(network)
        (4, 4, 2)
        >>> check_crop_size(network, (32, 32, 31))
        Traceback (most recent call last):
        ValueError: roi_size must be a multiple of DynUNet's total stride (4, 4, 2), got [32, 32, 31]
    """

    network_class = DynUNet
    output_layer = "output_block"
    blocks = (UnetBasicBlock, UnetResBlock)
    # conv3 is the shortcut of residual blocks
    stem = tuple(f"{block}.conv{i}.conv.weight" for i in (1, 3) for block in ("input_block", "skip_layers.downsample"))

    def total_stride(self, network: Network) -> int:  # noqa: D102
        return max(self.strides(network))

    def strides(self, network: Network, axes: int = 3) -> tuple[int, ...]:  # noqa: D102
        if network.deep_supervision:
            raise ValueError("DynUNet must be built with deep_supervision False, got True")
        of_levels = [(stride,) * axes if isinstance(stride, int) else stride for stride in network.strides]
        return tuple(prod(of_axis) for of_axis in zip(*of_levels, strict=True))

    def channels(self, network: Network) -> tuple[int, int, int]:  # noqa: D102
        return network.in_channels, network.filters[-1], network.filters[0]

    def encode(self, network: Network, x: Tensor) -> list[Tensor]:  # noqa: D102
        features = [network.input_block(x)]
        for down in (*network.downsamples, network.bottleneck):
            features.append(down(features[-1]))
        return features

    def decode(self, network: Network, features: list[Tensor]) -> Tensor:  # noqa: D102
        *skips, x = features
        for up, skip in zip(network.upsamples, skips[::-1], strict=True):
            x = up(x, skip)
        return x

    def apply_output_layer(self, network: Network, feature: Tensor) -> Tensor:  # noqa: D102
        return network.output_block(feature)


class SwinUNETRBackbone(Backbone):
    """``monai.networks.nets.SwinUNETR``: Swin stages at strides 2 to 32, residual blocks on every skip.

    Example:
        >>> network = SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
        >>> backbone = backbone_of(network)
        >>> backbone.total_stride(network), backbone.channels(network), backbone.output_layer
        (32, (1, 192, 12), 'out')
    """

    network_class = SwinUNETR
    output_layer = "out"
    blocks = (SwinTransformerBlock, UnetrBasicBlock, UnetrUpBlock)
    # attention matrices of 1 GB split up what is kept: 1.5 times the peak memory, for another 0.8 of the time
    largest_kept_block = 2**26
    stem = ("swinViT.patch_embed.proj.weight", "encoder1.layer.conv1.conv.weight", "encoder1.layer.conv3.conv.weight")

    def total_stride(self, network: Network) -> int:  # noqa: D102
        return network.patch_size**5

    def channels(self, network: Network) -> tuple[int, int, int]:  # noqa: D102
        return (
            network.get_submodule("swinViT.patch_embed.proj").in_channels,
            network.get_submodule("decoder5.transp_conv.conv").in_channels,
            network.get_submodule("out.conv.conv").in_channels,
        )

    def encode(self, network: Network, x: Tensor) -> list[Tensor]:  # noqa: D102
        return [x, *network.swinViT(x, network.normalize)]

    def decode(self, network: Network, features: list[Tensor]) -> Tensor:  # noqa: D102
        # the residual blocks on the skips belong here, so that they see the region alone and no second view
        image, *hidden = features
        skips = [
            network.encoder1(image),
            network.encoder2(hidden[0]),
            network.encoder3(hidden[1]),
            network.encoder4(hidden[2]),
            hidden[3],
        ]
        x = network.encoder10(hidden[4])
        decoders = (network.decoder5, network.decoder4, network.decoder3, network.decoder2, network.decoder1)
        for decoder, skip in zip(decoders, skips[::-1], strict=True):
            x = decoder(x, skip)
        return x

    def apply_output_layer(self, network: Network, feature: Tensor) -> Tensor:  # noqa: D102
        return network.out(feature)


def backbone_of(network: nn.Module) -> Backbone:
    """Find the description of a stock network.

    Raises:
        TypeError: when the network's class has none.

    Example:
        >>> backbone = backbone_of(network := BasicUNet(features=(4, 4, 8, 8, 16, 4)))
        >>> backbone.total_stride(network), backbone.channels(network), backbone.output_layer
        (16, (1, 16, 4), 'final_conv')
    """
    # the latest first: what describes a subclass of a network comes after what describes its base
    for backbone in reversed(Backbone.known):
        if isinstance(network, backbone.network_class):
            return backbone
    known = ", ".join(b.network_class.__name__ for b in Backbone.known)
    raise TypeError(f"network must be one of {known}, got {type(network).__name__}")


def check_crop_size(network: nn.Module, roi_size: Sequence[int]) -> None:
    """Refuse a crop that a network cannot take, before the first one is drawn.

    Args:
        network: a stock network.
        roi_size: voxels of a crop or a sliding window.

    Raises:
        ValueError: when a side is no multiple of the total stride, for a network that needs one, or the bottleneck
            would be a single voxel, on which instance normalisation fails.
        TypeError: when the network's class is unknown.

    Example:
        >>> check_crop_size(BasicUNet(features=(4, 4, 8, 8, 16, 4)), (16, 16, 16))
        Traceback (most recent call last):
        ValueError: roi_size must give BasicUNet a bottleneck of more than one voxel (stride 16), got [16, 16, 16]
    """
    backbone, name = backbone_of(network), type(network).__name__
    strides = backbone.strides(network, len(roi_size))
    shown = strides[0] if len(set(strides)) == 1 else strides
    if backbone.whole_strides and any(size % stride for size, stride in zip(roi_size, strides, strict=True)):
        raise ValueError(f"roi_size must be a multiple of {name}'s total stride {shown}, got {list(roi_size)}")
    if prod(size // stride for size, stride in zip(roi_size, strides, strict=True)) < 2:
        raise ValueError(
            f"roi_size must give {name} a bottleneck of more than one voxel (stride {shown}), got {list(roi_size)}"
        )
