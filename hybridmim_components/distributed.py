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

"""Several processes on one or more machines, as torchrun starts them: what the ``multi_gpu_*`` overlays name."""

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

from hybridmim_components.handlers import TerminalProgressBar

__all__ = ["handlers_of_rank", "local_device", "rank", "start", "stop"]

_POLL = 0.1  # s
_RANK_0_ONLY = (StatsHandler, TensorBoardStatsHandler, TerminalProgressBar)


def start() -> None:
    """Join the other processes: NCCL with GPUs, else gloo. A second call does nothing.

    Raises:
        RuntimeError: when this process was not started by torchrun, or has no GPU of its own where there are GPUs.
    """
    if dist.is_initialized():
        return
    if "LOCAL_RANK" not in os.environ:
        raise RuntimeError(
            "multi_gpu overlays need several processes: start them by torchrun --nproc_per_node=N -m ..."
        )
    # ignite would take SLURM's numbers for this process's own, but these count the torchruns: one a machine
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
    """Agree with the other processes on a name for this attempt, which no attempt before a restart has had.

    After a restart the store still has the addresses of the processes before it (torch 2.13), so each attempt needs
    keys of its own. The number of restarts is no such name: each machine counts its own. Rank 0 draws a name and tells
    it together with what the other ranks have said; a rank that finds there what it said itself knows the name is new.

    Args:
        store: what all processes share.
        number: rank of this process.
        processes: their number.
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
    """Leave the other processes, once all have come this far."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def local_device() -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def rank() -> int:
    """Number of this process, 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def handlers_of_rank(handlers: Sequence[Any]) -> list[Any]:
    """Leave out, on ranks above 0, the handlers that log; those that write files know their rank themselves."""
    return [h for h in handlers if rank() == 0 or not isinstance(h, _RANK_0_ONLY)]
