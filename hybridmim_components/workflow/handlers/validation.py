# SPDX-License-Identifier: Apache-2.0

"""Handler that validates at an interval of epochs and after the last one, so that no training ends unvalidated."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import ValidationHandler

__all__ = ["IntervalAndFinalValidation"]


class IntervalAndFinalValidation(ValidationHandler):
    """MONAI's ValidationHandler, with a further validation after the last epoch if the interval leaves it out.

    Args:
        interval: number of epochs between validations.
        validator: the evaluator to run.

    Raises:
        ValueError: when ``interval`` is below 1.

    Example:
        >>> evaluator = SupervisedEvaluator("cpu", [{"image": torch.ones(1, 1)}], nn.Linear(1, 1))
        >>> trainer = Engine(lambda engine, batch: None)
        >>> IntervalAndFinalValidation(2, evaluator).attach(trainer)
        >>> _ = evaluator.add_event_handler(Events.STARTED, lambda: print("validated after epoch", trainer.state.epoch))
        >>> _ = trainer.run([0], max_epochs=3)
        validated after epoch 2
        validated after epoch 3
    """

    def __init__(self, interval: int, validator: Evaluator) -> None:
        if interval < 1:
            raise ValueError(f"val_interval must be at least 1, got {interval}")
        super().__init__(interval, validator, epoch_level=True)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        super().attach(engine)
        engine.add_event_handler(Events.COMPLETED, self._validate_last)

    def _validate_last(self, engine: Engine) -> None:
        if engine.state.epoch % self.interval:
            self(engine)
