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

"""Writing files so that a kill at any instant leaves the old file or the new one, never half of one."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

__all__ = ["PARTIAL", "file_state", "save_tensors", "write_text"]

PARTIAL = ".partial"
"""Suffix of what a kill amid writing leaves beside the target."""


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically; missing folders are made."""
    _replace(path, lambda file: file.write(text.encode()))


def save_tensors(path: str | Path, content: dict[str, Any]) -> None:
    """Save tensors and plain containers atomically with ``torch.save``; missing folders are made."""
    _replace(path, lambda file: torch.save(content, file))


def _replace(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; what we write is as readable as any new file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        # torch.save reports a full disk as a RuntimeError
        if isinstance(error, (OSError, RuntimeError)):
            raise OSError(f"cannot write {target}: {error}") from error
        raise


def file_state(path: str | Path) -> list[int]:
    """Size and time of change: what tells that a volume has been replaced.

    Args:
        path: a file; a .mhd counts with the data beside it, and a folder, such as a DICOM series, with all its files.

    Returns:
        Two integers, or nothing where there is no such file.
    """
    target = Path(path)
    if target.is_dir():
        files = sorted(target.iterdir())
    elif target.suffix.lower() == ".mhd":
        files = sorted(p for p in target.parent.glob(f"{glob.escape(target.stem)}.*"))
    else:
        files = [target]
    stats = [file.stat() for file in files if file.is_file()]
    return [sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)] if stats else []
