# SPDX-License-Identifier: Apache-2.0

"""Access to the files of a store, on a local disk or, through fsspec, in an object store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from hybridmim_components.system.files import write_bytes

__all__ = ["StorePlace"]

Ranges = Sequence[tuple[int, int]]


class StorePlace:
    """Reader and writer of the files of a store. A file appears complete or not at all.

    Args:
        url: a folder, or an fsspec URL such as ``s3://bucket/store``, whose file system must be installed.

    Raises:
        ValueError: when the URL's file system is unknown or not installed.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        self._opened: tuple[int, Any, str] | None = None
        self._connect()

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_opened": None}

    def _connect(self) -> tuple[Any, str]:
        # a connection does not survive a fork, so each process makes its own
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                system, root = fsspec.core.url_to_fs(self.url)
            except (ValueError, ImportError) as error:
                raise ValueError(f"store must be a folder or an fsspec URL, got {self.url}: {error}") from error
            self._opened = (os.getpid(), system, root)
        return self._opened[1:]

    @property
    def is_local(self) -> bool:
        """Whether the store lies on a local disk."""
        return isinstance(self._connect()[0], LocalFileSystem)

    @property
    def folder(self) -> Path | None:
        """The store's folder, or None if it does not lie on a local disk."""
        return Path(self._connect()[1]) if self.is_local else None

    def names(self) -> list[str]:
        """List the names directly in the store, sorted and without hidden files; none if there is no store."""
        system, root = self._connect()
        if not system.exists(root):
            return []
        names = (path.rstrip("/").rpartition("/")[2] for path in system.ls(root, detail=False))
        return sorted(name for name in names if not name.startswith("."))

    def read(self, name: str) -> bytes | None:
        """Read a file. Returns None if there is none."""
        system, root = self._connect()
        try:
            return system.cat_file(f"{root}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically, on a local disk by a rename and in an object store as one object."""
        system, root = self._connect()
        if self.is_local:
            write_bytes(f"{root}/{name}", content)
        else:
            system.pipe_file(f"{root}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""
        system, root = self._connect()
        if system.exists(f"{root}/{name}"):
            system.rm_file(f"{root}/{name}")

    def array(self, name: str) -> np.ndarray:
        """Map a .npy file into memory, so that processes share it and read only what they use."""
        system, root = self._connect()
        if self.is_local:
            return np.load(f"{root}/{name}", mmap_mode="r")
        with TemporaryDirectory() as folder:
            copy = str(Path(folder) / "copy.npy")
            system.get_file(f"{root}/{name}", copy)
            return np.load(copy, mmap_mode="r")  # the mapping outlives the file's name

    @contextmanager
    def ranges(self, name: str) -> Iterator[Callable[[Ranges], list[bytes]]]:
        """Open a file to read ranges of its bytes. Each range is the first byte and the number of bytes.

        Raises:
            FileNotFoundError: when there is no such file.
        """
        system, root = self._connect()
        path = f"{root}/{name}"
        if not self.is_local:
            yield lambda ranges: _read_at_once(system, path, ranges)
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            yield lambda ranges: [os.pread(handle, number, first) for first, number in ranges]
        finally:
            os.close(handle)


def _read_at_once(system: Any, path: str, ranges: Ranges) -> list[bytes]:
    """Read all ranges by one request, since an object store takes longer to answer than to send the rest."""
    start = min(first for first, _ in ranges)
    content = system.cat_file(path, start=start, end=max(first + number for first, number in ranges))
    return [content[first - start : first - start + number] for first, number in ranges]
