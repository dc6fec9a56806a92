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
    """

    def __init__(self, description: str) -> None:
        self.description = description

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if sys.stderr.isatty() and idist.get_rank() == 0:
            bar = ProgressBar(desc=self.description, persist=True)
            bar.attach(engine, output_transform=lambda output: {"loss": float(loss_of(output))})
