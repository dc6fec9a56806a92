# SPDX-License-Identifier: Apache-2.0

"""Error reporting for ``monai.bundle run``: one line instead of four chained tracebacks."""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType

__all__ = ["VolumeError", "is_bundle_command", "reason_of", "root_cause", "shorten_tracebacks"]

_PACKAGE = Path(__file__).parents[1]
FULL_TRACEBACK = "HYBRIDMIM_TRACEBACK"
_ITK_NOISE = re.compile(r"^\S+\.(?:cxx|hxx|h|cpp):\d+:\s*|ITK ERROR: (?:\w+\(0x[0-9a-f]+\): )?")
_REASON_LIMIT = 200  # characters; a reader may quote the content of a file that it cannot read


class VolumeError(ValueError):
    """Error for a volume that turns out to be unusable during a run.

    Args:
        message: what is wrong. When torch passes on the traceback of a worker process, only its last line is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rstrip().splitlines()[-1].partition(f"{type(self).__name__}: ")[2] or message)


def shorten_tracebacks() -> None:
    """Make ``monai.bundle run`` print only the message of an error that this package raises for the user.

    MONAI wraps each error of a config item in further errors, which bury the message in a long traceback. Any other
    error keeps its traceback, and its innermost message is repeated at the end. The exit code stays 1. The environment
    variable HYBRIDMIM_TRACEBACK=1 brings the full traceback back. Programs that run a bundle inside their own process
    are not affected.
    """
    if is_bundle_command(sys.argv[0]) and not os.environ.get(FULL_TRACEBACK):
        sys.excepthook = _report


def is_bundle_command(program: str) -> bool:
    """Return whether ``program``, the ``sys.argv[0]`` of a process, is that of ``python -m monai.bundle``."""
    return Path(program).parts[-3:] == ("monai", "bundle", "__main__.py")


def root_cause(error: BaseException) -> BaseException:
    """Return the outermost error of the chain that this package raised, or else the innermost error."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return next((e for e in chain if _is_ours(e)), chain[-1])


def reason_of(error: BaseException) -> str:
    """Return in one printable line why a reader failed. MONAI and ITK surround the reason with a page of text."""
    cause = error.__cause__ or error.__context__ or error
    lines = [_ITK_NOISE.sub("", line).strip() for line in str(cause).splitlines()]
    reason = next((line for line in lines if line), "no message")[:_REASON_LIMIT]
    return f"{type(cause).__name__}: {''.join(c if c.isprintable() else '?' for c in reason)}"


def _is_ours(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, VolumeError):
        return True
    expected = isinstance(error, (ValueError, OSError))
    return expected and bool(frames) and Path(frames[-1].filename).is_relative_to(_PACKAGE)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause = root_cause(error)
    if not _is_ours(cause):
        sys.__excepthook__(kind, error, trace)
        if cause is not error:  # MONAI's last line names the config item, not what is wrong with it
            sys.stderr.write(f"cause: {type(cause).__name__}: {cause}\n")
        return
    sys.stderr.write(f"error: {cause}\n({FULL_TRACEBACK}=1 shows the traceback)\n")
