# SPDX-License-Identifier: Apache-2.0

"""Stop signals: SIGTERM and SIGINT end a run after the current step, and a second signal ends it at once."""

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

__all__ = ["EXIT_CODE", "StopSignals", "stop_with_parent_only", "held_back"]

logger = logging.getLogger(__name__)

#: Exit code of a run that was told to stop and can be resumed: EX_TEMPFAIL of sysexits.h, try again later.
EXIT_CODE = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CAN_WAIT = hasattr(signal, "sigwaitinfo")  # not on macOS and Windows, where workers obey all signals


class StopSignals:
    """Listener for stop signals between :meth:`listen` and :meth:`restore`, which agrees with the other processes."""

    def __init__(self) -> None:
        self._received = False
        self._before: dict[int, Any] = {}
        self._group: Any = None

    def listen(self) -> None:
        """Handle the signals from now on, except outside the main thread, where Python does not allow it."""
        if dist.is_initialized() and self._group is None:
            # a group on the CPU, so that asking does not wait for the GPU
            self._group = dist.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}

    def restore(self) -> None:
        """Restore the previous signal handlers."""
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
        """Return whether any process was told to stop. All processes must ask after the same step."""
        if self._group is None:
            return self._received
        flag = torch.tensor([int(self._received)])
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag)


@contextmanager
def held_back() -> Iterator[None]:
    """Block the stop signals, so that processes forked in this context start with them blocked."""
    if not _CAN_WAIT:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_with_parent_only(worker_id: int = 0) -> None:
    """Make a data loading worker obey stop signals from its parent only; a ``worker_init_fn`` for torch.

    Schedulers, ``timeout`` and Ctrl-C signal all processes of a job. If a worker died of that, the current step would
    fail. With this function, a worker keeps loading until its parent signals it or is gone. Fork the worker in the
    context :func:`held_back`, so that no signal reaches it before this function runs.

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
