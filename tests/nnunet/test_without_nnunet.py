# SPDX-License-Identifier: Apache-2.0

"""What happens where nnU-Net is missing or another version, and all other tests here in an environment that has it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from hybridmim_components.__main__ import main
from hybridmim_components.nnunet import plans, require_nnunet

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("found", [None, "2.7.0", "2.9", "3.0"])
def test_another_version_or_none_is_refused_with_the_range(monkeypatch: pytest.MonkeyPatch, found: str | None) -> None:
    def version(name: str) -> str:
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(plans, "version", version)
    message = f"error: nnunetv2 must be >=2.8,<2.9, got {found or 'none'}: pip install 'nnunetv2>=2.8,<2.9'"
    monkeypatch.setattr(sys, "argv", ["hybridmim_components", "nnunet", "4", "--output", "out"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == message


@pytest.mark.parametrize("found", ["2.8", "2.8.1", "2.8.1.post1"])
def test_the_tested_versions_are_taken(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr(plans, "version", lambda name: found)
    require_nnunet()


@pytest.mark.full
def test_all_tests_of_the_bridge_pass_in_an_environment_with_nnunet() -> None:
    """Makes the environment where it is not there yet."""
    if importlib.util.find_spec("nnunetv2") is not None:
        pytest.skip("nnunetv2 is installed here: the other tests have run")
    venv = Path(os.environ.get("HYBRIDMIM_NNUNET_VENV") or ROOT / ".venv-nnunet")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
    environment["HYBRIDMIM_VENV"] = str(venv)
    command = [str(ROOT / "ci" / "python_env.sh"), "ci/nnunet/requirements.lock"]
    made = subprocess.run(command, env=environment, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"the environment of nnU-Net could not be made: {made.stderr.strip()[-400:]}")
    python = str(venv / "bin" / "python")
    if subprocess.run([python, "-c", "import torchvision"], capture_output=True).returncode != 0:
        environment["PYTHONPATH"] = str(ROOT / "ci" / "nnunet" / "cpu_torchvision")
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/nnunet"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
