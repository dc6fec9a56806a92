# SPDX-License-Identifier: Apache-2.0

"""Without weights each entry point names the file it wants, and what writes or fetches it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from check_exported import _Zoo
from export_bundle import export_bundle
from monai.bundle import ConfigWorkflow
from monai_label.label_server import START
from small_bundles import small_bundle, small_phantoms

from hybridmim_components.deployment import export
from hybridmim_components.system.errors import root_cause
from hybridmim_components.weights.hub import push
from hybridmim_components.workflow.preflight import check_evaluation

URL = "https://example.org/model.pt"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An exported bundle that has lost its weights, and one whose weights are at a URL."""
    root = tmp_path_factory.mktemp("exported")
    bundle, weights = small_bundle(root / "small", "msd_spleen_unet")
    lost = export_bundle(bundle, weights, root / "lost", "MSD Spleen")
    (lost / "models" / "model.pt").unlink()
    return {"lost": lost, "elsewhere": export_bundle(bundle, weights, root / "elsewhere", "MSD Spleen", url=URL)}


def infer(bundle: Path, work: Path) -> None:
    data = small_phantoms(work, "msd_spleen", num_training=1)
    places = {"bundle_root": str(bundle), "dataset_dir": str(data.dataset_dir)}
    config = str(bundle / "configs" / "inference.json")
    flow = ConfigWorkflow(config, workflow_type="infer", logging_file=False, **places)
    flow.initialize()
    flow.run()


def evaluate(bundle: Path, work: Path) -> None:
    from monai.networks.nets import BasicUNet

    check_evaluation([], work, bundle / "models" / "model.pt", 0, BasicUNet(3, features=[4] * 6), [32] * 3)


def serve(bundle: Path, work: Path) -> None:
    command = [str(START), "--no-install", "--bundles", str(bundle), "--studies", str(work), "--app", str(work / "app")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    raise FileNotFoundError(done.stderr)


ENTRY_POINTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "inference": (infer, "run configs/train.json first, set ckpt_dir"),
    "evaluate": (evaluate, "run .*train.json first, .* or set ckpt_dir"),
    "export": (lambda bundle, work: export(str(bundle)), "run .*train.json first, .* or name a file by weights"),
    "MONAI Label": (serve, "train it, or name a folder that holds them with --models-dir"),
}


@pytest.mark.parametrize("name", ENTRY_POINTS)
@pytest.mark.parametrize("kind", ["lost", "elsewhere"])
def test_entry_points_tell_what_they_want_and_how_to_get_it(
    name: str, kind: str, originals: dict[str, Path], tmp_path: Path
) -> None:
    entry, how = ENTRY_POINTS[name]
    bundle = tmp_path / "bundle_segmentation"
    shutil.copytree(originals[kind], bundle)
    with pytest.raises((FileNotFoundError, RuntimeError)) as error:
        entry(bundle, tmp_path)
    cause = root_cause(error.value)
    assert isinstance(cause, FileNotFoundError)
    assert "no weights" in str(cause) and str(bundle / "models" / "model.pt") in str(cause)
    if kind == "elsewhere":
        how = f"python -m monai.bundle download_large_files --bundle_path {bundle}"
    assert re.search(how, str(cause)), cause


def test_checks_and_hub_take_a_bundle_whose_weights_are_elsewhere_and_no_other(
    originals: dict[str, Path], tmp_path: Path
) -> None:
    _Zoo(originals["elsewhere"], tmp_path).files()
    with pytest.raises(FileNotFoundError, match=f"no weights at {originals['lost']}/models/model.pt, .* --url"):
        _Zoo(originals["lost"], tmp_path).files()
    with pytest.raises(FileNotFoundError, match="must have models/model.pt or large_files.yml"):
        push(str(originals["lost"]), "clinic/spleen")
