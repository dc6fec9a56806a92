# SPDX-License-Identifier: Apache-2.0

"""Reuse of the memory that a network frees from layer to layer."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["give_back", "keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_NEVER = -1


def keep_freed_memory(largest: int = 2**29) -> bool:
    """Make glibc reuse freed blocks instead of returning each to the system.

    By default, each activation of a 3D network gets new memory from the system. The system clears this memory page by
    page, which takes time in proportion to its size, at every layer. The setting holds until the process ends, also in
    threads that start later. The process keeps the memory it has taken until it ends or :func:`give_back` is called.

    Args:
        largest: size of the largest block to reuse in bytes, below 2**31. In inference, the activations of a window
            are smaller than 512 MiB. Volumes of all classes are larger and would fragment the kept memory.

    Returns:
        Whether the setting is in effect, which it never is with a C library other than glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_ARENA_MAX, 1)  # one arena for all threads: those of single threads cannot keep large blocks
    return bool(mallopt(_M_MMAP_THRESHOLD, largest)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


def give_back() -> None:
    """Return all freed memory to the system once.

    If :func:`keep_freed_memory` is in effect, the process keeps what it frees from then on.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
