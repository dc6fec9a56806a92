# SPDX-License-Identifier: Apache-2.0

"""Progress bar for terminals, on rank 0 only."""

from __future__ import annotations

import sys

import ignite.distributed as idist
from ignite.engine import Engine
from ignite.handlers import ProgressBar

from hybridmim_components.workflow.engines import loss_of

__all__ = ["TerminalProgressBar"]


class TerminalProgressBar:
    """Progress bar of ignite with the loss, shown only if standard error is a terminal.

    Args:
        description: text before the bar.

    Example:
        >>> from contextlib import redirect_stderr
        >>> from io import StringIO
        >>> trainer, screen = Engine(lambda engine, batch: {"loss": batch}), StringIO()
        >>> screen.isatty = lambda: True  # as a terminal answers
        >>> with redirect_stderr(screen):
        ...     TerminalProgressBar("training").attach(trainer)
        ...     _ = trainer.run([0.5])
        >>> "training" in screen.getvalue(), "loss=0.5" in screen.getvalue()
        (True, True)
    """

    def __init__(self, description: str) -> None:
        self.description = description

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if sys.stderr.isatty() and idist.get_rank() == 0:
            bar = ProgressBar(desc=self.description, persist=True)
            bar.attach(engine, output_transform=lambda output: {"loss": float(loss_of(output))})
