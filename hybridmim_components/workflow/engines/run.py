# SPDX-License-Identifier: Apache-2.0

"""Run of an engine as a command: it releases its folder lock at the end, and a stopped run has its own exit code."""

from __future__ import annotations

import sys
from contextlib import nullcontext

from monai.engines import Evaluator, Trainer

from hybridmim_components.system.allocator import give_back
from hybridmim_components.system.folder_lock import FolderLock
from hybridmim_components.system.stop_signals import EXIT_CODE
from hybridmim_components.workflow.engines.pretrainer import HybridMIMTrainer
from hybridmim_components.workflow.run_record import RunRecord

__all__ = ["run"]


def run(engine: Trainer | Evaluator, lock: FolderLock | None = None) -> None:
    """Train or evaluate; exit with status 75 if SIGTERM or SIGINT has stopped a training, which can be resumed.

    Args:
        engine: trainer or evaluator. A trainer needs :class:`.handlers.Checkpoints`, which records that it was stopped.
        lock: lock of the folders that the engine writes to; released at the end, also after a failure. Its
            ``output_dir`` gets a :class:`.RunRecord`.

    Example:
        >>> import json
        >>> network, batches = nn.Linear(1, 1), [{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}]
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> trainer = SupervisedTrainer("cpu", 1, batches, network, optimizer, nn.MSELoss())
        >>> run(trainer, FolderLock(output_dir="out"))
        >>> record = json.loads(Path("out/run.json").read_text())
        >>> record["step"], record["starts"][0]["outcome"]
        ('train', 'finished')
    """
    folders = lock.folders if lock else {}
    try:
        output = folders.get("output_dir")
        record = RunRecord(output, _step(engine), folders.get("ckpt_dir")) if output else nullcontext()
        with record as recorded:
            engine.run()
            if recorded:
                recorded.stopped = getattr(engine.state, "stopped", False)
    finally:
        if lock is not None:
            lock.release()
        give_back()  # the process may live on, as MONAI Label's server does
    if getattr(engine.state, "stopped", False):
        sys.exit(EXIT_CODE)


def _step(engine: Trainer | Evaluator) -> str:
    if isinstance(engine, Evaluator):
        return "evaluate"
    return "pretrain" if isinstance(engine, HybridMIMTrainer) else "train"
