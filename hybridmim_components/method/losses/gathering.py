# SPDX-License-Identifier: Apache-2.0

"""Gathering of the views of all processes, so that the contrast has the negatives of the whole batch."""

from __future__ import annotations

from typing import Any, cast

import ignite.distributed as idist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["gather_views"]


def gather_views(view1: Tensor, view2: Tensor, volume: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Join the views of all processes; with one process, return them unchanged.

    Each process then computes the same loss over the whole batch. The gradient of a view, summed over processes, flows
    back to the process that it came from. DistributedDataParallel then takes the mean over processes, which gives the
    gradient that one process would have with the whole batch.

    Args:
        view1: projections (B, F); the same B in all processes.
        view2: projections (B, F).
        volume: (B,) number of each crop's volume.

    Returns:
        Views and numbers of the whole batch, (processes * B, F) and (processes * B,).

    Example:
        >>> view1, view2, volume = gather_views(torch.zeros(2, 8), torch.zeros(2, 8), None)
        >>> view1.shape  # of one process
        torch.Size([2, 8])
    """
    if idist.get_world_size() == 1:
        return view1, view2, volume
    if volume is not None:
        volume = cast(Tensor, idist.all_gather(volume.to(view1.device))).to(volume.device)
    return _AllGather.apply(view1), _AllGather.apply(view2), volume


class _AllGather(Function):
    """Join along the first axis, with a gradient.

    Torch's own function for this is deprecated, and its successor is not public yet.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.batch_size = len(own)
        return cast(Tensor, idist.all_gather(own))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = cast(Tensor, idist.all_reduce(gradient.contiguous()))
        return total[idist.get_rank() * ctx.batch_size :][: ctx.batch_size]
