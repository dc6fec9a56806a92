# SPDX-License-Identifier: Apache-2.0

"""The commands of an exported bundle's README, letter for letter, from the root folder and without the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from export_bundle import export_bundle
from small_bundles import small_bundle, small_phantoms

ROOT = Path(__file__).parents[2]
Shell = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("readme")
    return export_bundle(*small_bundle(root / "small", "msd_spleen_unet"), root / "exported", "phantoms")


@pytest.fixture(scope="module")
def shell(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell in which `python` is this one, less the package, also where a command sets PYTHONPATH."""
    root = tmp_path_factory.mktemp("shell")
    python = root / "python"
    without = ROOT / "ci" / "without_package"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}{without}" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    data = small_phantoms(root / "data", "msd_spleen").dataset_dir
    environment = {**os.environ, "BUNDLE": str(bundle), "DATA": str(data), "PATH": f"{root}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, shell=True, cwd="/", env=environment, capture_output=True, text=True)

    for path in ("", f"PYTHONPATH={bundle} "):
        assert "not installed here" in run(f'{path}python -c "import hybridmim_components"').stderr
    return run


def commands(bundle: Path) -> list[str]:
    """The commands of the README, less what other tests run: several processes, a download, a store, ONNX, OpenVINO."""
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).splitlines()
    inline = re.findall(r"`((?:PYTHONPATH=\S+ )?python -m [^`]*)`", text)
    elsewhere = ("torchrun", " download ", " prepare", "--format onnx", "--format openvino")
    return [command for command in blocks + inline if not any(word in command for word in elsewhere)]


@pytest.mark.slow
def test_each_command_of_the_readme_runs(bundle: Path, shell: Shell) -> None:
    (bundle / "models" / "model.pt").unlink()
    (bundle / "models" / "model.json").unlink()
    written = {
        "configs/pretrain.json": "models/pretrained/model.pt",
        "configs/train.json ": "models/model.pt",
        "configs/evaluate.json": "runs/evaluate/evaluation_summary.csv",
        "configs/inference.json ": "runs/inference/*.nii.gz",
        "configs/checked_inference.json": "runs/inference/*.nii.gz",
        "configs/frugal_inference.json": "runs/inference/*.nii.gz",
        "--format torchscript": "models/model.ts",
        "scripts check": "LICENSE",
    }
    for command in commands(bundle):
        (kind,) = (kind for kind in written if kind in command)
        done = shell(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        made = list(bundle.glob(written.pop(kind)))
        assert made, command
        if made[0].suffix == ".gz":  # so that the next command must write its own
            made[0].unlink()
    assert not written, f"the README lacks commands for {sorted(written)}"
