# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedTrainer
from torch import nn

from hybridmim_components.data import SeededLoader
from hybridmim_components.workflow.handlers import DropNonFiniteSteps

STEPS = 12


class Run:
    """A training whose images, or whose loss alone, are NaN in some steps; notes the weights after each."""

    def __init__(self, spoilt: tuple[int, ...], most_in_a_row: int = 10, where: str = "image", **settings: Any) -> None:
        torch.manual_seed(0)
        network = nn.Linear(4, 1)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
        items = [{"image": torch.rand(4), "label": torch.rand(1), "number": i} for i in range(STEPS)]
        self.handler = DropNonFiniteSteps(optimizer, most_in_a_row)
        self.weights: list[torch.Tensor] = [network.weight.detach().clone()]
        self.moments: list[torch.Tensor] = []

        def loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            value = nn.functional.mse_loss(output, label)
            return value * float("nan") if where == "loss" and self.trainer.state.iteration in spoilt else value

        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=1,
            train_data_loader=SeededLoader(Dataset(items), 1, steps=STEPS),
            network=network,
            optimizer=optimizer,
            loss_function=loss,
            train_handlers=[self.handler],
            **settings,
        )

        def spoil(engine: Any) -> None:
            if where == "image" and engine.state.iteration in spoilt:
                engine.state.batch["image"][:] = float("nan")

        def note(engine: Any) -> None:
            self.weights.append(network.weight.detach().clone())
            # none before the first step
            self.moments.append(optimizer.state[network.weight].get("exp_avg", torch.zeros(())).clone())

        self.trainer.add_event_handler(Events.ITERATION_STARTED, spoil)
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, note)


@pytest.mark.parametrize("where", ["image", "loss"])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run((4, 5, 9), where=where)
    run.trainer.run()
    for step in range(1, STEPS + 1):
        same = torch.equal(run.weights[step], run.weights[step - 1])
        assert same == (step in (4, 5, 9)), step
        if same:
            assert torch.equal(run.moments[step - 1], run.moments[step - 2])
    assert torch.isfinite(run.weights[-1]).all()
    assert run.handler.total == 3 and run.handler.in_a_row == 0
    assert "Step 4 dropped (1 so far): loss nan or its gradients are not finite, on item " in caplog.text


def test_many_in_a_row_end_the_run_and_name_the_volumes() -> None:
    run = Run((2, 4, 5, 7, 8, 9, 11), most_in_a_row=3)
    with pytest.raises(ValueError, match=r"not finite in 3 steps in a row, the last on item \d+: look at"):
        run.trainer.run()
    assert run.trainer.state.iteration == 9 and run.handler.total == 6
    assert torch.isfinite(run.weights[-1]).all()


def test_a_micro_batch_that_is_not_finite_costs_the_whole_step() -> None:
    run = Run((3,), accumulation_steps=2)
    run.trainer.run()
    changed = [not torch.equal(a, b) for a, b in zip(run.weights, run.weights[1:], strict=False)]
    assert changed == [False, True, False, False] + [False, True] * 4


def test_the_number_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_non_finite_steps must be at least 1, got 0"):
        DropNonFiniteSteps(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), 0)
