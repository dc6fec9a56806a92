# SPDX-License-Identifier: Apache-2.0

"""Settings that change the memory, start-up time and speed of a network, but not its results."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybridmim_components.networks.backbones import backbone_of
from hybridmim_components.networks.dropout import use_byte_dropout
from hybridmim_components.system.allocator import keep_freed_memory as keep_freed

__all__ = ["outermost", "set_execution"]

logger = logging.getLogger(__name__)


def set_execution(
    network: nn.Module,
    device: torch.device | str,
    activation_checkpointing: bool = False,
    compile: bool = False,  # noqa: A002
    keep_freed_memory: bool = False,
) -> nn.Module:
    """Set how a stock network is trained, in place; its state dict keeps its names.

    Dropout is drawn by :class:`.ByteDropout`. What each knob costs and brings is in ``benchmarks/README.md``.

    Args:
        network: a stock network that :func:`.backbone_of` knows.
        device: where it will run.
        activation_checkpointing: keep only what enters each block, and compute the block again in the backward pass.
        compile: compile each block by ``torch.compile``, at the first step; needs a C++ compiler, or Triton on a GPU.
        keep_freed_memory: on the CPU, reuse freed memory instead of asking the system anew, see :mod:`.allocator`.

    Returns:
        The network.

    Raises:
        TypeError: when the network's class is unknown.
        ValueError: when both ``compile`` and ``activation_checkpointing`` are on.

    Example:
        >>> network = BasicUNet(features=(4, 4, 4, 4, 4, 4), dropout=0.1)
        >>> crop = torch.rand(1, 1, 32, 32, 32)
        >>> before = network.eval()(crop)
        >>> after = set_execution(network, "cpu", activation_checkpointing=True)(crop)
        >>> torch.equal(before, after), any(type(layer) is nn.Dropout for layer in network.modules())
        (True, False)
    """
    if compile and activation_checkpointing:
        raise ValueError("compile and activation_checkpointing exclude each other, got true for both")
    backbone = backbone_of(network)
    use_byte_dropout(network)
    for block in outermost(network, backbone.blocks):
        if compile:
            block.compile()
        elif activation_checkpointing:
            block.forward = partial(_checkpointed, block, block.forward)
    on_cpu = torch.device(device).type == "cpu"
    if keep_freed_memory and on_cpu and not keep_freed(backbone.largest_kept_block):
        logger.info("keep_freed_memory does nothing here: the C library is not glibc")
    return network


def outermost(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    """Return the outermost modules of some classes, once each: a decoder may have the encoder among its children.

    Example:
        >>> network = BasicUNet(features=(4, 4, 4, 4, 4, 4))
        >>> [type(block).__name__ for block in outermost(network, backbone_of(network).blocks)][3:7]
        ['TwoConv', 'TwoConv', 'UpCat', 'UpCat']
    """
    found: dict[nn.Module, None] = {}
    for child in module.children():
        found |= dict.fromkeys([child] if isinstance(child, kinds) else outermost(child, kinds))
    return list(found)


def _checkpointed(block: nn.Module, forward: Callable[..., Tensor], *inputs: Any, **options: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
