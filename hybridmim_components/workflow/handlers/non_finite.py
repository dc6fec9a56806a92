# SPDX-License-Identifier: Apache-2.0

"""Handler that drops steps whose loss or gradients are not finite, and ends the run after many in a row."""

from __future__ import annotations

import logging
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from hybridmim_components.workflow.engines import loss_of

__all__ = ["DropNonFiniteSteps"]

logger = logging.getLogger(__name__)


class DropNonFiniteSteps:
    """Handler that keeps NaN and infinity out of the weights and the optimiser's moments.

    In mixed precision the gradient scaler itself drops steps while it searches for its scale, so only non-finite losses
    count there. The check of the gradients makes the host wait for the device once per step.

    Args:
        optimizer: the optimiser whose steps are checked.
        most_in_a_row: number of consecutive non-finite steps that ends the run.

    Raises:
        ValueError: when ``most_in_a_row`` is below 1.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> handler = DropNonFiniteSteps(optimizer)
        >>> batches = [{"image": torch.tensor([[x]]), "label": torch.ones(1, 1)} for x in (1.0, float("nan"), 2.0)]
        >>> SupervisedTrainer("cpu", 1, batches, network, optimizer, nn.MSELoss(), train_handlers=[handler]).run()
        >>> handler.total, network.weight.isfinite().item()
        (1, True)
    """

    def __init__(self, optimizer: Optimizer, most_in_a_row: int = 10) -> None:
        if most_in_a_row < 1:
            raise ValueError(f"max_non_finite_steps must be at least 1, got {most_in_a_row}")
        self.optimizer = optimizer
        self.most_in_a_row = most_in_a_row
        self.in_a_row = self.total = 0
        self._finite: bool | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        self.optimizer.register_step_pre_hook(self._before_step)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Remove all gradients if any is not finite: the optimiser then changes neither weights nor moments."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._finite = bool(torch.isfinite(get_total_norm([p.grad for p in parameters if p.grad is not None])))
        if not self._finite:
            for parameter in parameters:
                parameter.grad = None

    def __call__(self, engine: Engine) -> None:
        """Count a non-finite step, and end the run after too many.

        Raises:
            ValueError: after too many non-finite steps in a row; names the volumes of the last batch.
        """
        finite, self._finite = self._finite, None
        loss = float(loss_of(engine.state.output))  # type: ignore[arg-type]
        if finite is not False and torch.isfinite(torch.tensor(loss)):
            self.in_a_row = 0 if finite else self.in_a_row
            return
        self.in_a_row += 1
        self.total += 1
        cases = ", ".join(_cases(engine.state.batch))
        logger.warning(
            "Step %d dropped (%d so far): loss %g or its gradients are not finite, on %s",
            engine.state.iteration,
            self.total,
            loss,
            cases,
        )
        if self.in_a_row >= self.most_in_a_row:
            raise ValueError(
                f"loss or gradients were not finite in {self.in_a_row} steps in a row, the last on {cases}: look at "
                "these volumes, or lower learning_rate; the weights are those of the last good step"
            )


def _cases(batch: Any) -> list[str]:
    """Return the volumes of a batch, which may be decollated (one dictionary per item)."""
    names = [item.get("case", "?") for item in batch] if isinstance(batch, list) else batch.get("case", ["?"])
    return sorted(set(names))
