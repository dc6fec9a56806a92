# SPDX-License-Identifier: Apache-2.0

"""Record of a run: which step it was, by which command, when it ran, and on which machine and versions."""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import sys
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import ignite
import ignite.distributed as idist
import monai
import nibabel
import numpy
import torch
from typing_extensions import Self

from hybridmim_components import __version__
from hybridmim_components.system.files import read_json_object, write_text

__all__ = ["RUN_FILE", "RunRecord"]

#: Name of the file in the output folder of a run.
RUN_FILE = "run.json"
_LIBRARIES = (monai, torch, ignite, nibabel, numpy)

logger = logging.getLogger(__name__)


class RunRecord:
    """Context manager that keeps ``run.json`` in the output folder of a run. In a multi-process run, rank 0 writes.

    The file holds ``step``, ``command``, ``weights`` (a folder), ``versions``, ``machine``, and ``starts``. The last is
    a list with an entry per start of the run: ``started`` and ``ended`` (UTC) and ``outcome``. An outcome is
    ``running``, ``finished``, ``stopped`` (by a signal, and can be resumed) or ``failed``. An entry that says
    ``running`` although the run has ended was killed. The file holds paths as they were typed, but not the name of the
    machine or of the user.

    Args:
        folder: output folder of the run.
        step: ``pretrain``, ``train`` or ``evaluate``.
        weights: folder that the run writes weights to, if it does.

    Example:
        >>> with RunRecord("run", "train") as run:
        ...     run.stopped = True
        >>> with RunRecord("run", "train"):
        ...     pass
        >>> [start["outcome"] for start in json.loads(Path("run/run.json").read_text())["starts"]]
        ['stopped', 'finished']
    """

    def __init__(self, folder: str | Path, step: str, weights: str | Path | None = None) -> None:
        self.path = Path(folder) / RUN_FILE
        self.step = step
        self.weights = os.path.abspath(weights) if weights else None
        self.stopped = False  #: set it before the end, if a signal has stopped the run

    def __enter__(self) -> Self:
        self.record: dict[str, Any] = {
            "step": self.step,
            "command": _command(),
            "weights": self.weights,
            "versions": {
                "hybridmim_components": __version__,
                **{library.__name__: library.__version__ for library in _LIBRARIES},
            },
            "machine": _machine(),
            "starts": [*self._earlier_starts(), {"started": _now(), "outcome": "running"}],
        }
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome = "failed" if kind else "stopped" if self.stopped else "finished"
        self.record["starts"][-1] |= {"ended": _now(), "outcome": outcome}
        self._write()

    def _earlier_starts(self) -> list[dict[str, Any]]:
        try:
            earlier = read_json_object(self.path)
        except (OSError, ValueError):
            return []
        starts = earlier.get("starts")
        return starts if earlier.get("step") == self.step and isinstance(starts, list) else []

    def _write(self) -> None:
        if idist.get_rank() > 0:
            return
        try:
            write_text(self.path, json.dumps(self.record, indent=2) + "\n")
        except OSError as error:  # no reason to lose a run
            logger.warning("%s could not be written: %s", self.path, error)


def _command() -> str:
    """Return the command line as a user types it."""
    program, *arguments = sys.argv or [""]
    path = Path(program)
    words = [path.name or "python"]  # there is no program where a person types into Python
    if path.name == "__main__.py":
        words = ["python", "-m", "monai.bundle" if path.parent.name == "bundle" else path.parent.name]
    return " ".join([*words, *map(_quoted, arguments)])


def _quoted(argument: str) -> str:
    """Quote an argument for the shell; a list of texts in double quotes, which is easier to read than shlex's way."""
    plain = "'" in argument and not set(argument) & set('"$`\\!')
    return f'"{argument}"' if plain else shlex.quote(argument)


def _machine() -> dict[str, Any]:
    # a run on the CPU has not touched the GPUs, and must not start them for their names
    gpus = [torch.cuda.get_device_name()] if torch.cuda.is_initialized() else []
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return {"system": system, "cpu_cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
