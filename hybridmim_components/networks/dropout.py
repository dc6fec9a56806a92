# SPDX-License-Identifier: Apache-2.0

"""Dropout of the pre-training network: the source of the two views that the contrast compares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ByteDropout", "has_dropout", "use_byte_dropout"]


class ByteDropout(nn.Dropout):
    """Element-wise dropout that draws a byte per element on the CPU, far cheaper than torch's Bernoulli numbers.

    The probability is rounded to a multiple of 1/256, at least 1/256. The kept elements are scaled for the rounded
    probability, so that the mean does not change. The mask is not stored for the backward pass, but drawn again from
    its seed, which comes from torch's global generator. On other devices, whose generators are fast, and in compiled
    code, torch's own dropout is used.

    Example:
        >>> dropped = ByteDropout(0.25)(torch.ones(100_000))
        >>> dropped.unique()
        tensor([0.0000, 1.3333])
        >>> round(dropped.mean().item(), 1)
        1.0
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Drop elements of a tensor of any shape in training mode; the result of a MetaTensor is a plain tensor."""
        plain = not self.training or not 0 < self.p < 1 or input.device.type != "cpu" or self.inplace
        if plain or torch.compiler.is_compiling():
            return super().forward(input)
        return _DropBytes.apply(input.as_subclass(Tensor), max(1, round(self.p * 256)))


class _DropBytes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int) -> Tensor:
        ctx.seed, ctx.threshold = int(torch.randint(2**62, ())), threshold
        return _drop(x, ctx.seed, threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _drop(gradients[0], ctx.seed, ctx.threshold), None


def _drop(x: Tensor, seed: int, threshold: int) -> Tensor:
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64)
    words.random_(-(2**63), None, generator=torch.Generator().manual_seed(seed))
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= threshold
    return torch.where(kept, x, x.new_zeros(())).mul_(256 / (256 - threshold))


def use_byte_dropout(network: nn.Module) -> int:
    """Replace a network's element-wise dropout by :class:`ByteDropout`, in place.

    Args:
        network: the network to change.

    Returns:
        Number of replaced modules.

    Example:
        >>> layers = nn.Sequential(nn.Dropout(0.1))
        >>> use_byte_dropout(layers)
        1
        >>> type(layers[0]).__name__
        'ByteDropout'
    """
    exchanged: dict[nn.Module, ByteDropout] = {}
    # SwinUNETR's MLPs hold one dropout layer under two names
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if type(module) is nn.Dropout and module.p > 0:
            new = ByteDropout(module.p, module.inplace).train(module.training)
            network.set_submodule(name, exchanged.setdefault(module, new))
    return len(exchanged)


def has_dropout(network: nn.Module) -> bool:
    """Return whether any dropout layer of the network is active in training mode.

    Example:
        >>> has_dropout(nn.Sequential(nn.Dropout(0.1))), has_dropout(nn.Sequential(nn.Dropout(0.0)))
        (True, False)
    """
    kinds = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)
    return any(isinstance(m, kinds) and m.p > 0 for m in network.modules())
