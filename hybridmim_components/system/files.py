# SPDX-License-Identifier: Apache-2.0

"""Atomic writing of files, so that a kill leaves the old one or the new one; reading of tables and untrusted JSON."""

from __future__ import annotations

import csv
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

__all__ = [
    "PARTIAL",
    "Row",
    "file_state",
    "read_json_object",
    "read_table",
    "save_tensors",
    "write_bytes",
    "write_text",
]

Row = dict[str, str]
_DATA_FILE = re.compile(rb"^\s*ElementDataFile\s*[=:]\s*(.*?)\s*$", re.MULTILINE)


#: Suffix of the temporary file that stays beside the target if the process is killed while it writes.
PARTIAL = ".partial"
_JSON_LIMIT = 64 << 20  # bytes; the results of inspecting 100,000 volumes take half of this


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file that need not be trusted.

    Raises:
        OSError: when the file cannot be opened.
        ValueError: when the file is too large, is not UTF-8, is not a JSON object, is nested too deeply, or holds NaN,
            infinity or the same name twice. The message does not name the file.
    """
    with Path(path).open("rb") as file:
        content = file.read(_JSON_LIMIT + 1)
    if len(content) > _JSON_LIMIT:
        raise ValueError(f"it must have at most {_JSON_LIMIT >> 20} MiB")
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"it must hold an object, got {type(found).__name__}")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"a name must stand once, got twice: {next(n for n in names if names.count(n) > 1)!r}")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"numbers must be finite, got {name}")


def read_table(path: str | Path) -> list[Row]:
    """Read the rows of a CSV file that :class:`.handlers.History` or :class:`.handlers.EvaluationReport` wrote.

    Raises:
        FileNotFoundError: when the step that writes it has not run.
        ValueError: when a row is cut short; names the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no {path}: the step that writes it has not run")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(f"each row must have one value per column, got another number in row {number} of {path}")
    return rows


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically. Missing folders are created."""
    _replace(path, lambda file: file.write(text.encode()))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically. Missing folders are created."""
    _replace(path, lambda file: file.write(content))


def save_tensors(path: str | Path, content: dict[str, Any]) -> None:
    """Save tensors and plain containers atomically with ``torch.save``. Missing folders are created."""
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
        # mkstemp creates private files; this one gets the permissions of any new file
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
    """Return size and modification time of a file, which show whether a volume has been replaced.

    Args:
        path: file or folder. A .mhd file counts together with the data that it names, and a folder, such as a DICOM
            series, with all its files.

    Returns:
        Size in bytes and time in nanoseconds, with a checksum of those of all files if there are several; or an empty
        list if there is no such file.
    """
    target = Path(path)
    if target.is_dir():
        files = sorted(target.iterdir())
    else:
        files = [target]
    if target.suffix.lower() == ".mhd" and target.is_file():
        with target.open("rb") as stream:
            named = _DATA_FILE.search(stream.read(2**16))
        files += [target.with_name(os.path.basename(os.fsdecode(named[1])))] if named else []
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    if len(stats) < 2:
        return [number for _, s in stats for number in (s.st_size, s.st_mtime_ns)]
    each = zlib.crc32(repr([(name, s.st_size, s.st_mtime_ns) for name, s in stats]).encode())
    return [sum(s.st_size for _, s in stats), max(s.st_mtime_ns for _, s in stats), each]
