# SPDX-License-Identifier: Apache-2.0

"""Handler that writes learning curves to a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.utils import is_scalar
from torch.optim import Optimizer

from hybridmim_components.system.files import write_text

__all__ = ["History"]


class History:
    """Handler that writes a row per epoch: epoch, iteration, learning rate, and every scalar metric of the engine.

    Args:
        path: target file, written atomically after each epoch. Rows of earlier epochs are kept: they come from the run
            that this one resumes, see :class:`.Checkpoints`.
        optimizer: its first parameter group gives the learning rate; None: no such column.

    Example:
        >>> from ignite.metrics import Average
        >>> trainer = Engine(lambda engine, batch: batch)
        >>> Average().attach(trainer, "train_loss")
        >>> History("training.csv").attach(trainer)
        >>> _ = trainer.run([1.0, 3.0], max_epochs=2)
        >>> print(Path("training.csv").read_text(), end="")
        epoch,iteration,train_loss
        1,2,2.0
        2,4,2.0
    """

    def __init__(self, path: str | Path, optimizer: Optimizer | None = None) -> None:
        self.path = Path(path)
        self.optimizer = optimizer
        self.rows: list[dict[str, Any]] | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or an evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Add the row of the epoch that just ended."""
        row: dict[str, Any] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        if self.optimizer is not None:
            row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        row |= {name: float(value) for name, value in engine.state.metrics.items() if is_scalar(value)}
        if idist.get_rank() == 0:
            if self.rows is None:
                self.rows = self._earlier(engine.state.epoch)
            self.rows.append(row)
            self._write(self.rows)

    def _earlier(self, epoch: int) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if int(row["epoch"]) < epoch]

    def _write(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[-1]), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())
