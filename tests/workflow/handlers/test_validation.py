# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
from monai.engines import SupervisedEvaluator
from torch import nn

from hybridmim_components.workflow.handlers import IntervalAndFinalValidation


class Recorder(SupervisedEvaluator):
    """Notes the epochs at which it is asked to validate."""

    def __init__(self) -> None:
        super().__init__(device="cpu", val_data_loader=[], epoch_length=1, network=nn.Identity())
        self.epochs: list[int] = []

    def run(self, global_epoch: int = 1) -> None:
        self.epochs.append(global_epoch)


@pytest.mark.parametrize(("epochs", "expected"), [(1, [1]), (4, [2, 4]), (5, [2, 4, 5])])
def test_the_last_epoch_is_always_validated_and_only_once(epochs: int, expected: list[int]) -> None:
    from ignite.engine import Engine

    validator, trainer = Recorder(), Engine(lambda engine, batch: None)
    IntervalAndFinalValidation(2, validator).attach(trainer)
    trainer.run([0], max_epochs=epochs)
    assert validator.epochs == expected


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="val_interval must be at least 1, got 0"):
        IntervalAndFinalValidation(0, Recorder())
