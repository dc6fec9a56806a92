# SPDX-License-Identifier: Apache-2.0

"""What every test can use: the folder of real images, and one torch thread in each pytest-xdist worker."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from preloaded import run_module

MonaiRun = Callable[..., subprocess.CompletedProcess[str]]
VARIABLE = "HYBRIDMIM_REAL_DATA"

pytest.register_assert_rewrite("backbone_tester")
os.environ.setdefault("MPLBACKEND", "Agg")
if os.environ.get("PYTEST_XDIST_WORKER"):
    import torch

    torch.set_num_threads(1)


def _reason_to_skip() -> str | None:
    folder = os.environ.get(VARIABLE)
    if not folder:
        return f"{VARIABLE} is unset: set it to a folder of real images to run this test"
    if not Path(folder).is_dir():
        return f"{VARIABLE} is {folder!r}, which is not a folder"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_data)


def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = _reason_to_skip() if item.get_closest_marker("real_data") else None
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images that HYBRIDMIM_REAL_DATA names; the test is skipped, saying so, where there is none."""
    reason = _reason_to_skip()
    if reason:
        pytest.skip(reason)
    return Path(os.environ[VARIABLE]).resolve()


@pytest.fixture(scope="session")
def monai_run() -> MonaiRun:
    """``python -m monai.bundle run`` in another process, but for the import as typed in a shell."""

    def run(bundle: Path, configs: Sequence[str], cwd: Path, **overrides: object) -> subprocess.CompletedProcess[str]:
        files = [str(bundle / "configs" / f"{name}.json") for name in configs]
        arguments = ["run", "--config_file", files[0] if len(files) == 1 else str(files)]
        for key, value in {"bundle_root": bundle, **overrides}.items():
            arguments += [f"--{key}", str(value)]
        return run_module("monai.bundle", arguments, cwd)

    return run
