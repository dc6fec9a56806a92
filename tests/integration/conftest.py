# SPDX-License-Identifier: Apache-2.0

"""The environment of MONAI Label, and real servers that end with their test."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from monai_label.label_server import START, LabelServer


@pytest.fixture(scope="session")
def label_environment() -> None:
    """The environment of MONAI Label, made where it is not there yet; the test is skipped where it cannot be."""
    made = subprocess.run([str(START), "--install-only"], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"the environment of MONAI Label could not be made: {made.stderr.strip()[-400:]}")


@pytest.fixture
def start_server(label_environment: None, tmp_path: Path) -> Iterator[Callable[..., LabelServer]]:
    """Start a server that ends with the test."""
    servers: list[LabelServer] = []

    def start(*arguments: str) -> LabelServer:
        servers.append(LabelServer(tmp_path / f"server_{len(servers)}.log", *arguments))
        servers[-1].wait_until_up()
        return servers[-1]

    try:
        yield start
    finally:
        for server in servers:
            server.stop()
