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

"""Running an engine as a command does: its folders are its own meanwhile, and a stopped run has its own exit code."""

from __future__ import annotations

import sys

from monai.engines import Evaluator, Trainer

from hybridmim_components.allocator import give_back
from hybridmim_components.folder_lock import FolderLock
from hybridmim_components.stop_signals import EXIT_CODE

__all__ = ["run"]


def run(engine: Trainer | Evaluator, lock: FolderLock | None = None) -> None:
    """Train or evaluate; exit with status 75 where SIGTERM or SIGINT has stopped a training, which can be resumed.

    Args:
        engine: a trainer has :class:`.handlers.Checkpoints` among its handlers, which tells that it was stopped.
        lock: of the folders that are written to; released at the end, also after a failure.
    """
    try:
        engine.run()
    finally:
        if lock is not None:
            lock.release()
        give_back()  # a server, such as MONAI Label's, lives on
    if getattr(engine.state, "stopped", False):
        sys.exit(EXIT_CODE)
