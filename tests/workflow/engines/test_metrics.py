# SPDX-License-Identifier: Apache-2.0

"""Means of an epoch leave out what is not finite."""

from __future__ import annotations

import math

import pytest
from ignite.engine import Engine

from hybridmim_components.workflow.engines import loss_metric

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("losses", "mean"), [([1.0, 3.0], 2.0), ([1.0, NAN, 3.0], 2.0), ([INF, 3.0], 3.0), ([NAN], NAN)]
)
def test_one_dropped_step_does_not_spoil_the_mean_of_its_epoch(losses: list[float], mean: float) -> None:
    trainer = Engine(lambda engine, batch: {"loss": batch})
    loss_metric()["train_loss"].attach(trainer, "train_loss")
    found = [trainer.run(values, max_epochs=1).metrics["train_loss"] for values in (losses, [5.0])]
    assert found == pytest.approx([mean, 5.0], nan_ok=True), "nor of the next one"
