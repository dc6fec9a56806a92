# SPDX-License-Identifier: Apache-2.0

"""Runs of several processes that torchrun starts on one or more machines; for the ``multi_gpu_*`` overlays."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from monai.handlers import StatsHandler, TensorBoardStatsHandler

from hybridmim_components.workflow.handlers import TerminalProgressBar

__all__ = ["handlers_of_rank", "local_device", "rank", "start", "stop"]

_POLL = 0.1  # s
_RANK_0_ONLY = (StatsHandler, TensorBoardStatsHandler, TerminalProgressBar)


def start() -> None:
    """Join the other processes, by NCCL if there are GPUs and else by gloo. A second call does nothing.

    Raises:
        RuntimeError: when torchrun did not start this process, or when there are GPUs but none for this process.

    Example:
        >>> start()
        Traceback (most recent call last):
        RuntimeError: multi_gpu overlays need several processes: start them by torchrun --nproc_per_node=N -m ...
    """
    if dist.is_initialized():
        return
    if "LOCAL_RANK" not in os.environ:
        raise RuntimeError(
            "multi_gpu overlays need several processes: start them by torchrun --nproc_per_node=N -m ..."
        )
    # ignite would take this process's rank from SLURM, but SLURM counts the torchruns, one per machine
    os.environ.pop("SLURM_JOB_ID", None)
    local_rank, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if count and local_rank >= count:
        raise RuntimeError(f"torchrun's nproc_per_node must be at most the number of GPUs, {count}")
    if count:
        torch.cuda.set_device(local_rank)
    store, number, processes = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(attempt_name(store, number, processes), store)
    dist.init_process_group("nccl" if count else "gloo", store=store, rank=number, world_size=processes)


def attempt_name(store: dist.Store, number: int, processes: int) -> str:
    """Agree with the other processes on a name for this attempt that no attempt before a restart has used.

    After a restart, the store still holds the addresses of the earlier processes (torch 2.13), so each attempt needs
    its own keys. The number of restarts cannot serve as the name, since each machine counts its own restarts. Instead,
    every other rank publishes a random text. Rank 0 publishes a random name together with the texts that it has read.
    A rank that finds its own text there knows that the name is new.

    Args:
        store: key-value store that all processes share.
        number: rank of this process.
        processes: number of processes.
    """
    own = uuid.uuid4().hex
    others = range(1, processes)
    if number:
        store.set(f"hello_{number}", own)
        while (welcome := json.loads(store.get("welcome")))["hellos"].get(str(number)) != own:
            time.sleep(_POLL)
        store.set(f"taken_{number}", welcome["name"])
        return str(welcome["name"])
    while True:
        hellos = {str(other): store.get(f"hello_{other}").decode() for other in others}
        store.set("welcome", json.dumps({"name": own, "hellos": hellos}))
        taken = [f"taken_{other}" for other in others]
        if store.check(taken) and all(store.get(key).decode() == own for key in taken):
            return own
        time.sleep(_POLL)


def stop() -> None:
    """Wait until all processes have come this far, then leave the group.

    Example:
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> stop()
        >>> dist.is_initialized()
        False
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def local_device() -> torch.device:
    """Return the GPU of this process, or the CPU if there is no GPU.

    Example:
        >>> local_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
        True
    """
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def rank() -> int:
    """Return the rank of this process, which is 0 if it is the only one.

    Example:
        >>> rank()
        0
        >>> dist.init_process_group("fake", rank=1, world_size=2)  # stands for the second process of torchrun
        >>> rank()
        1
        >>> dist.destroy_process_group()
    """
    return dist.get_rank() if dist.is_initialized() else 0


def handlers_of_rank(handlers: Sequence[Any]) -> list[Any]:
    """On ranks above 0, leave out the handlers that log. Handlers that write files check their rank themselves.

    Example:
        >>> handlers = [StatsHandler(), TerminalProgressBar("training"), print]
        >>> len(handlers_of_rank(handlers))
        3
        >>> dist.init_process_group("fake", rank=1, world_size=2)  # stands for the second process of torchrun
        >>> handlers_of_rank(handlers)
        [<built-in function print>]
        >>> dist.destroy_process_group()
    """
    return [h for h in handlers if rank() == 0 or not isinstance(h, _RANK_0_ONLY)]
