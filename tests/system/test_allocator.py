# SPDX-License-Identifier: Apache-2.0

"""Memory that was freed comes back without the system clearing it once more."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hybridmim_components.system import allocator
from hybridmim_components.system.allocator import keep_freed_memory

GIVE_BACK = """
import ctypes, importlib.util, os, sys
spec = importlib.util.spec_from_file_location("allocator", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20
assert module.keep_freed_memory()
block = ctypes.create_string_buffer(256 << 20)
ctypes.memset(block, 1, 256 << 20)
above = ctypes.create_string_buffer(1 << 20)
del block
kept = resident()
module.give_back()
print(kept - resident())
"""

COUNT_FAULTS = """
import ctypes, importlib.util, resource, sys, threading
PR_SET_THP_DISABLE = 41  # a huge page would count as one fault
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
spec = importlib.util.spec_from_file_location("allocator", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert sys.argv[2] == "no" or module.keep_freed_memory()
blocks = [ctypes.create_string_buffer(1)]
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill():
    for round in range(4):
        if round == 1: before = faults()
        blocks[0] = None
        blocks[0] = ctypes.create_string_buffer(64 << 20)
        ctypes.memset(blocks[0], 1, 64 << 20)
    print(faults() - before)
if sys.argv[3] == "main":
    fill()
else:
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize("place", ["main", "a thread of its own"])
def test_freed_memory_is_reused(place: str) -> None:
    """In processes of their own: the setting lasts as long as the process."""

    def faults(keep: str) -> int:
        command = [sys.executable, "-c", COUNT_FAULTS, str(Path(allocator.__file__)), keep, place]
        plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=plain).stdout)

    assert faults("yes") * 4 < faults("no")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_kept_memory_can_be_given_back() -> None:
    command = [sys.executable, "-c", GIVE_BACK, str(Path(allocator.__file__))]
    given = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert given > 200, "MiB, of 256"


def test_another_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
