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

"""Letting a process keep the memory that a network frees from layer to layer."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["give_back", "keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_NEVER = -1


def keep_freed_memory(largest: int = 2**29) -> bool:
    """Make glibc reuse freed blocks instead of returning each to the system.

    By default every activation of a 3D network is new to the process: the system clears it page by page at each layer,
    which costs time in proportion to its size. The setting holds until the process ends, in threads started later too,
    and what the process took it keeps until then, or until :func:`give_back`.

    Args:
        largest: bytes of the largest block to reuse, below 2**31. In inference activations of a window lie below 512
            MiB; volumes of all classes lie above, and would split up what is kept.

    Returns:
        Whether it is in effect: False where the C library is another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_ARENA_MAX, 1)  # a thread's own arena, as of one that fills a cache, can keep no large block
    return bool(mallopt(_M_MMAP_THRESHOLD, largest)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


def give_back() -> None:
    """Return all freed memory to the system once; what is freed later is kept again, where that was set."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
