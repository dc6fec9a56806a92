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
