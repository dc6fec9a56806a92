# SPDX-License-Identifier: Apache-2.0

"""Locks that give a run exclusive use of the folders it writes to, from its start to its end."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import socket
import tempfile
import weakref
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import ignite.distributed as idist
import torch.distributed as dist
from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from hybridmim_components.system.files import read_json_object, write_text

__all__ = ["FolderLock"]

logger = logging.getLogger(__name__)

_LOCK, _LEASE, _OWNER = ".in_use.lock", ".in_use.lease", ".in_use.json"
_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_LEASE_SECONDS = 60.0


class FolderLock:
    """Exclusive use of folders, from construction to :meth:`release`.

    A second run in such a folder fails with an error that names the first run. The lock is the operating system's own
    (``flock``), so a run that is killed loses it at once. On NFS, the server frees it after some time. On a file system
    without such locks (Lustre without its mount option ``flock``), the run takes a lease instead, a file that it keeps
    renewing. If the run dies, another run can take the lease about a minute later. The hidden files ``.in_use.*`` may
    stay behind and never need to be removed.

    If there are several processes, rank 0 takes the lock for all. In a process that lives on, such as a server, the
    lock ends when this object is deleted, if not before.

    Args:
        folders: folders by the name of their setting, such as ``output_dir``. Missing folders are created. None stands
            for no folder.

    Attributes:
        folders: the locked folders by the name of their setting.

    Raises:
        OSError: in every process, when a folder cannot be written to or is in use. The message names the setting and
            the folder and, if it is in use, the host and process that use it.

    Example:
        >>> lock = FolderLock(output_dir="out")
        >>> FolderLock(output_dir="out")
        Traceback (most recent call last):
        OSError: output_dir out is in use by process ...: wait for it, or name another output_dir
        >>> lock.release()
    """

    def __init__(self, **folders: str | Path | None) -> None:
        self._locks: list[BaseFileLock] = []
        self._release = weakref.finalize(self, _release, self._locks, os.getpid())
        self.folders = {setting: Path(folder) for setting, folder in folders.items() if folder is not None}
        error = self._take()
        if idist.get_world_size() > 1:
            # torch's function, since ignite's cuts off text that is not ASCII
            errors = [""] * idist.get_world_size()
            dist.all_gather_object(errors, error)
            error = next(filter(None, errors), "")
        if error:
            self.release()
            raise OSError(error)

    def release(self) -> None:
        """Release the folders. A second call does nothing."""
        self._release()

    def _take(self) -> str:
        """Lock the folders. Returns why one of them cannot be locked, or an empty text."""
        gc.collect()  # objects of a failed run in this process may still hold a lock
        for setting, folder in self.folders.items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
                own = [Path(lock.lock_file).parent for lock in self._locks]
                if idist.get_rank() == 0 and not any(folder.samefile(other) for other in own):
                    self._locks.append(_acquire(folder))
            except Timeout:
                return f"{setting} {folder} is in use by {_owner(folder)}: wait for it, or name another {setting}"
            except OSError as error:
                return f"{setting} must be a folder that can be written, got {folder}: {error}"
        return ""


def _acquire(folder: Path) -> BaseFileLock:
    lock: BaseFileLock = FileLock(folder / _LOCK, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        # an owner that does not renew its lease during the lease's whole duration is gone
        wait = 1.2 * _LEASE_SECONDS
        lock = SoftFileLease(folder / _LEASE, lease_duration=_LEASE_SECONDS, timeout=wait, thread_local=False)
        lock.acquire()
    if (folder / _OWNER).is_file():
        logger.info("%s in %s has ended without releasing its lock: its lock is void", _owner(folder), folder)
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    owner = {"process": os.getpid(), "host": socket.gethostname(), "since": now}
    try:
        write_text(folder / _OWNER, json.dumps(owner))
    except OSError as error:
        logger.warning("Another run cannot see who uses %s: %s", folder, error)
    return lock


def _owner(folder: Path) -> str:
    try:
        owner = read_json_object(folder / _OWNER)
        return f"process {owner['process']} on host {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def _release(locks: list[BaseFileLock], process: int) -> None:
    while locks and os.getpid() == process:  # not in a forked child, which has a copy of the list
        lock = locks.pop()
        with suppress(OSError):
            Path(lock.lock_file).with_name(_OWNER).unlink(missing_ok=True)
        lock.release()
