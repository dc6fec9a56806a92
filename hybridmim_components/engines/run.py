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

"""Running a trainer as a command does: a run that a signal has stopped ends with an exit code of its own."""

from __future__ import annotations

import sys

from monai.engines import Trainer

from hybridmim_components.allocator import give_back
from hybridmim_components.stop_signals import EXIT_CODE

__all__ = ["run"]


def run(trainer: Trainer) -> None:
    """Train; exit with status 75 where SIGTERM or SIGINT has stopped the run, which can be resumed.

    Args:
        trainer: with :class:`.handlers.Checkpoints` among its handlers, which tells it.
    """
    trainer.run()
    give_back()  # a server, such as MONAI Label's, lives on
    if getattr(trainer.state, "stopped", False):
        sys.exit(EXIT_CODE)
