# SPDX-License-Identifier: Apache-2.0

"""Handler that seeds each training step, so that a resumed run draws the same masks, regions and dropout."""

from __future__ import annotations

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from hybridmim_components.data.seeded_loader import SeededLoader
from hybridmim_components.system.seeds import seed_of

__all__ = ["SeededSteps"]


class SeededSteps:
    """Handler that seeds torch's global generators before each step from the run's seed, the rank and the step.

    No random state passes from one step to the next, so a checkpoint needs no state of a generator.

    Args:
        loader: loader of the training; the handler tells it at the start of each epoch where to begin.
        seed: seed of the run.

    Example:
        >>> from monai.data import Dataset
        >>> loader = SeededLoader(Dataset([{"image": 0}, {"image": 1}]), batch_size=1, steps=2)
        >>> trainer = Engine(lambda engine, batch: torch.rand(1).item())
        >>> SeededSteps(loader, seed=7).attach(trainer)
        >>> first, second = [trainer.run(loader).output for _ in range(2)]
        >>> first == second
        True
    """

    def __init__(self, loader: SeededLoader, seed: int) -> None:
        self.loader = loader
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._begin_step)

    def _begin_epoch(self, engine: Engine) -> None:
        self.loader.begin(engine.state.epoch, engine.state.iteration % len(self.loader))

    def _begin_step(self, engine: Engine) -> None:
        torch.manual_seed(seed_of(self.seed, idist.get_rank(), engine.state.iteration))
