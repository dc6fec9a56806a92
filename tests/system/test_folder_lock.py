# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import errno
import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import pytest
from monai.engines import Trainer

from hybridmim_components.system import folder_lock
from hybridmim_components.system.folder_lock import FolderLock
from hybridmim_components.workflow.engines import run

HOLDER = """
import multiprocessing, sys, time
from hybridmim_components.system import folder_lock
if sys.argv[2] == "lease":
    import errno, fcntl
    def missing(*_):
        raise OSError(errno.ENOSYS, "no locks")
    fcntl.flock, folder_lock._LEASE_SECONDS = missing, 1.0
lock = folder_lock.FolderLock(output_dir=sys.argv[1])
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(15,))
worker.start()
print(worker.pid, flush=True)
time.sleep(60)
"""


@contextmanager
def another_run(folder: Path, kind: str = "lock") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds a folder, and its worker, which lives on when it dies."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    worker = int(process.stdout.readline())
    try:
        yield process, worker
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.kill(worker, signal.SIGKILL)


def test_a_second_run_is_told_who_uses_the_folder(tmp_path: Path) -> None:
    lock = FolderLock(output_dir=tmp_path / "out")
    message = (
        rf"^output_dir {tmp_path}/out is in use by process {os.getpid()} on host \S+ since \S+ \S+ UTC: "
        "wait for it, or name another output_dir$"
    )
    with pytest.raises(OSError, match=message):
        FolderLock(output_dir=tmp_path / "out")
    lock.release()
    FolderLock(output_dir=tmp_path / "out").release()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".in_use.lock"]


def test_what_was_taken_before_a_refusal_is_given_back(tmp_path: Path) -> None:
    lock = FolderLock(ckpt_dir=tmp_path / "models")
    with pytest.raises(OSError, match="^ckpt_dir .* is in use by"):
        FolderLock(output_dir=tmp_path / "out", ckpt_dir=tmp_path / "models")
    FolderLock(output_dir=tmp_path / "out").release()
    lock.release()


def test_one_folder_may_serve_two_settings_and_none_is_none(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    FolderLock(output_dir=tmp_path, ckpt_dir=str(tmp_path / "link"), store=None).release()


def test_a_killed_run_leaves_nothing_to_clean_though_its_worker_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with another_run(tmp_path) as (process, worker):
        with pytest.raises(OSError, match=f"is in use by process {process.pid} on host"):
            FolderLock(output_dir=tmp_path)
        process.kill()
        process.wait()
        os.kill(worker, 0)
        with caplog.at_level(logging.INFO):
            FolderLock(output_dir=tmp_path).release()
        assert f"process {process.pid} on host" in caplog.text and "its lock is void" in caplog.text


def test_a_worker_that_ends_does_not_free_the_folder(tmp_path: Path) -> None:
    lock = FolderLock(output_dir=tmp_path)
    worker = multiprocessing.get_context("fork").Process(target=lock.release)
    worker.start()
    worker.join()
    with pytest.raises(OSError, match=f"in use by process {os.getpid()}"):
        FolderLock(output_dir=tmp_path)
    lock.release()


def test_without_system_locks_a_lease_is_kept_up_and_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr("fcntl.flock", missing)
    monkeypatch.setattr(folder_lock, "_LEASE_SECONDS", 1.0)
    with another_run(tmp_path, "lease") as (process, _):
        with pytest.raises(OSError, match=f"is in use by process {process.pid} on host"):
            FolderLock(output_dir=tmp_path)
        process.kill()
        process.wait()
        FolderLock(output_dir=tmp_path).release()


def test_a_run_that_failed_in_a_server_does_not_keep_its_folder(tmp_path: Path) -> None:
    config: dict[str, Any] = {"lock": FolderLock(output_dir=tmp_path)}
    config["itself"] = config  # as MONAI's parser refers to itself
    gc.disable()
    try:
        del config
        FolderLock(output_dir=tmp_path).release()
    finally:
        gc.enable()


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_frees_its_folder_at_its_end_also_after_a_failure(tmp_path: Path, fails: bool) -> None:
    class Engine:
        state = None

        def run(self) -> None:
            with pytest.raises(OSError, match="is in use by"):
                FolderLock(output_dir=tmp_path)
            if fails:
                raise RuntimeError("out of memory")

    engine: Trainer = Engine()
    try:
        run(engine, FolderLock(output_dir=tmp_path))
    except RuntimeError:
        assert fails
    FolderLock(output_dir=tmp_path).release()


@pytest.mark.parametrize("setting", ["output_dir", "ckpt_dir"])
def test_what_is_no_folder_or_cannot_be_written_is_refused(tmp_path: Path, setting: str) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        with pytest.raises(OSError, match=f"^{setting} must be a folder that can be written, got {folder}: "):
            FolderLock(**{setting: folder})


def _two_ranks(rank: int, folder: str, held: str) -> None:
    lock = FolderLock(output_dir=folder)
    idist.barrier()
    for other in (folder, held):
        with pytest.raises(OSError, match="^output_dir .* is in use by process"):
            FolderLock(output_dir=other)
    idist.barrier()
    lock.release()
    idist.barrier()
    FolderLock(output_dir=folder).release()


def test_two_processes_of_a_run_share_one_lock_and_both_are_told(tmp_path: Path) -> None:
    held = tmp_path / "Läufe"
    lock = FolderLock(output_dir=held)
    # forked, because a spawned process cannot import this test module by name
    with idist.Parallel(backend="gloo", nproc_per_node=2, start_method="fork") as parallel:
        parallel.run(_two_ranks, str(tmp_path / "out"), str(held))
    lock.release()
