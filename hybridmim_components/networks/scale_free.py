# SPDX-License-Identifier: Apache-2.0

"""Weights whose scale does not affect a network's output, since an instance normalisation follows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from monai.networks.blocks import UnetBasicBlock, UnetResBlock
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = ["restore_scale", "scale_free_norms"]

_BETWEEN = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)
_NUMBERED = (UnetBasicBlock, UnetResBlock)  # blocks that name their layers conv1, norm1, conv2, and so on


def scale_free_norms(network: nn.Module) -> dict[str, Tensor]:
    """Measure the convolution weights that are directly followed by an instance normalisation.

    The normalisation divides by the standard deviation of the response, so scaling the weight does not change the
    output. It does change the speed of learning: a step of Adam has the same size for large and small weights, so it
    changes a large weight relatively less (the effective learning rate of Hoffer et al.,
    https://arxiv.org/abs/1803.01814).

    Args:
        network: any module. Layers in ``nn.Sequential``, which MONAI's and nnU-Net's convolution blocks are made of,
            and MONAI's ``UnetBasicBlock`` and ``UnetResBlock`` are searched.

    Returns:
        Norm of each such weight by its name in the state dict; one name for a weight that has several.

    Example:
        >>> layers = nn.Sequential(nn.Conv3d(1, 2, 3), nn.InstanceNorm3d(2), nn.ReLU(), nn.Conv3d(2, 3, 1))
        >>> list(scale_free_norms(layers))
        ['0.weight']
    """
    return {name: network.get_parameter(name).detach().norm() for name in dict.fromkeys(_names(network))}


@torch.no_grad()
def restore_scale(network: nn.Module, norms: Mapping[str, Tensor]) -> list[str]:
    """Give weights the norms that they once had, in place.

    Args:
        network: any module.
        norms: what :func:`scale_free_norms` measured.

    Returns:
        Names of the weights that were scaled: those that are not 0.

    Example:
        >>> layers = nn.Sequential(nn.Conv3d(1, 2, 3), nn.InstanceNorm3d(2))
        >>> norms = scale_free_norms(layers)
        >>> _ = layers[0].weight.data.mul_(5)
        >>> restore_scale(layers, norms), bool(torch.isclose(layers[0].weight.norm(), norms["0.weight"]))
        (['0.weight'], True)
    """
    weights = {name: network.get_parameter(name) for name in norms}
    scaled = {name: weight for name, weight in weights.items() if weight.norm() > 0}
    for name, weight in scaled.items():
        weight.mul_(norms[name] / weight.norm())
    return list(scaled)


def _names(network: nn.Module) -> Iterator[str]:
    pairs: list[tuple[str, nn.Module | None, nn.Module | None]]
    for place, module in network.named_modules():
        prefix = f"{place}." if place else ""
        if isinstance(module, nn.Sequential):
            layers = [layer for layer in _layers(module, prefix) if not isinstance(layer[1], _BETWEEN)]
            pairs = [(name, layer, after) for (name, layer), (_, after) in pairwise(layers)]
        elif isinstance(module, _NUMBERED):
            parts = dict(module.named_modules())
            pairs = [(f"{prefix}conv{i}.conv", parts.get(f"conv{i}.conv"), parts.get(f"norm{i}")) for i in (1, 2, 3)]
        else:
            continue
        for name, layer, after in pairs:
            # running statistics keep the scale of the responses that they were computed from
            normed = isinstance(after, _InstanceNorm) and not after.track_running_stats
            if isinstance(layer, _ConvNd) and normed:
                yield f"{name}.weight"


def _layers(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Layers of a sequence in their order, those of sequences within it too."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            yield from _layers(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child
