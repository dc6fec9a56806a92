# SPDX-License-Identifier: Apache-2.0

"""Choice of the parameters that weight decay applies to."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["decay_groups"]

_TABLES = ("relative_position_bias_table", "position_embeddings", "mask_fill.token")


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split a network's parameters into groups with and without weight decay, for an optimiser of torch.

    Norms, biases, position tables and the mask token do not decay, since small values have no special meaning there.
    This is the usual rule for transformers, also that of timm's ``param_groups_weight_decay``
    (https://github.com/huggingface/pytorch-image-models).

    Args:
        network: any module; parameters that need no gradient are left out.
        weight_decay: weight decay of the other parameters, the weights of convolutions and linear layers.

    Returns:
        Two groups; the parameters with weight decay come first.

    Example:
        >>> optimizer = torch.optim.AdamW(decay_groups(nn.Linear(3, 2), weight_decay=0.01))
        >>> for group in optimizer.param_groups:
        ...     print([tuple(parameter.shape) for parameter in group["params"]], group["weight_decay"])
        [(2, 3)] 0.01
        [(2,)] 0.0
    """
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (others if parameter.ndim <= 1 or name.endswith(_TABLES) else decaying).append(parameter)
    return [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
