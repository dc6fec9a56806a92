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

"""SIGTERM and SIGINT end a run after the step at hand; a second signal ends it at once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["EXIT_CODE", "StopSignals", "heed_the_parent_alone", "held_back"]

logger = logging.getLogger(__name__)

#: Of a run that was told to stop and can be resumed: EX_TEMPFAIL of sysexits.h, try again later.
EXIT_CODE = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CAN_WAIT = hasattr(signal, "sigwaitinfo")  # not on macOS and Windows: workers there are told with the others


class StopSignals:
    """Notice signals between :meth:`listen` and :meth:`restore`, and agree about them with the other processes."""

    def __init__(self) -> None:
        self._received = False
        self._before: dict[int, Any] = {}
        self._group: Any = None

    def listen(self) -> None:
        """Take the signals; outside the main thread Python does not allow that, and nothing happens."""
        if dist.is_initialized() and self._group is None:
            # on the CPU, so that asking does not wait for the GPU
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}

    def restore(self) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            os._exit(128 + number)
        self._received = True
        name = signal.Signals(number).name
        logger.warning("%s: stopping after this step; a second one stops at once, without saving", name)

    def agreed(self) -> bool:
        """Whether any process was told to stop; all processes must ask, after the same step."""
        if self._group is None:
            return self._received
        flag = torch.tensor([int(self._received)])
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag)


@contextmanager
def held_back() -> Iterator[None]:
    """Keep signals waiting, so that processes forked inside begin with them held back."""
    if not _CAN_WAIT:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_the_parent_alone(worker_id: int = 0) -> None:
    """Make a process that loads data serve the step at hand while others are told to stop: ``worker_init_fn`` of torch.

    Schedulers, ``timeout`` and Ctrl-C tell all processes of a job. A worker that dies of it takes the step with it. It
    ends when its parent says so, or is gone. Fork it where signals are :func:`held_back`, so that none comes before.

    Args:
        worker_id: given by torch, not used.
    """
    parent = multiprocessing.parent_process()
    if not _CAN_WAIT or parent is None:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def serve() -> None:
        while signal.sigwaitinfo(_SIGNALS).si_pid != parent.pid:
            pass
        os._exit(0)

    threading.Thread(target=serve, daemon=True).start()
