# SPDX-License-Identifier: Apache-2.0

"""Exported bundles where the package is not installed: the zoo's checks on all of them, and several in one process."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from export_bundle import export_bundle
from monai.bundle import ConfigParser
from render_bundles import SOURCE, read_performance
from small_bundles import NAMES, small_bundle
from vendoring import vendored

from hybridmim_components.phantoms import write_msd_spleen

ROOT = Path(__file__).parents[2]
# both backbones, each kind of image; the others are for --full
BY_DEFAULT = ("brats2020_unet", "btcv_swinunetr", "msd_hippocampus_unet", "msd_liver_unet")


@pytest.fixture(scope="module")
def isolated() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python from the root folder, without the package."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "ci" / "without_package")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd="/")

    assert "hybridmim_components is not installed here" in run("-c", "import hybridmim_components").stderr
    return run


Source = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A bundle with a small network, and weights for it."""
    root = tmp_path_factory.mktemp("small")
    return lru_cache(None)(lambda name: small_bundle(root, name))


@pytest.fixture(scope="module")
def exported(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    output = tmp_path_factory.mktemp("exported")
    return lambda name: export_bundle(*source(name), output, "phantoms")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in BY_DEFAULT else pytest.mark.full) for n in NAMES])
def test_the_zoos_checks_pass_without_the_package(name: str, exported: Callable, isolated: Callable) -> None:
    folder = exported(name)
    assert folder.name == f"hybridmim_phantom_{name}_segmentation"
    done = isolated(str(ROOT / "ci" / "check_exported.py"), str(folder))
    row = [cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")]
    assert done.returncode == 0 and row == [folder.name, *["ok"] * 8], done.stdout + done.stderr


@pytest.mark.slow
def test_the_zoos_checks_can_fail(exported: Callable, isolated: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "spoilt_segmentation"
    shutil.copytree(exported("msd_spleen_unet"), folder)
    (folder / "LICENSE").unlink()
    (folder / "scripts" / "method" / "masking.py").write_text("import torch\nimport os\n")
    for name, old, new in [
        ("metadata.json", '"num_channels": 2', '"num_channels": 3'),
        ("metadata.json", '"intended_use"', '"use"'),
        ("train.json", "scripts.workflow.preflight.check_training", "scripts.workflow.preflight.check_nothing"),
        ("inference.json", '"seg"', '"seg", "_disabled_": true'),
    ]:
        path = folder / "configs" / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    done = isolated(str(ROOT / "ci" / "check_exported.py"), str(folder))
    row = [cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")]
    assert done.returncode == 1
    assert [cell == "ok" for cell in row[1:]] == [*[False] * 7, True], row


def test_the_same_input_gives_the_same_bytes(source: Source, tmp_path: Path) -> None:
    zips = []
    for place in ("one", "two"):
        export_bundle(*source("btcv_unet"), tmp_path / place, "BTCV")
        (archive,) = (tmp_path / place).glob("*.zip")
        assert archive.name == "hybridmim_btcv_unet_segmentation_v0.1.0.zip"
        zips.append(archive.read_bytes())
    assert zips[0] == zips[1]


def test_scripts_are_the_same_in_every_bundle(exported: Callable) -> None:
    folders = [exported(name) / "scripts" for name in ("btcv_unet", "brats2020_swinunetr")]
    contents = [{str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders]
    assert contents[0] == contents[1] and not any(b"hybridmim_components" in text for text in contents[0].values())
    assert set(contents[0]) == {
        str(p.relative_to(ROOT / "hybridmim_components")) for p in (ROOT / "hybridmim_components").rglob("*.py")
    }


def test_metadata_readme_and_licence_say_what_the_weights_are(source: Source, tmp_path: Path) -> None:
    for trained_on, statement in [
        ("phantoms", "The weights were trained on synthetic phantoms: to try the bundle, not for patients."),
        ("MSD Spleen, fold 0", "The weights were trained on MSD Spleen, fold 0."),
    ]:
        folder = export_bundle(*source("msd_spleen_unet"), tmp_path, trained_on)
        metadata = json.loads((folder / "configs" / "metadata.json").read_text())
        assert statement in metadata["description"] and metadata["eval_metrics"] == {}
        assert ("phantom" in folder.name, "phantoms" in metadata["name"]) == (trained_on == "phantoms",) * 2
        for name in ("README.md", "data_license.txt"):
            text = (folder / "docs" / name).read_text()
            assert statement in text and "no weights trained on patients" not in text
        assert "python -m hybridmim_components" not in (folder / "docs" / "README.md").read_text()


def test_weights_may_stay_at_a_url(source: Source, tmp_path: Path) -> None:
    import hashlib

    bundle, weights = source("btcv_unet")
    folder = export_bundle(bundle, weights, tmp_path, "BTCV", url="https://example.org/model.pt")
    text = (folder / "large_files.yml").read_text()
    assert not (folder / "models" / "model.pt").exists() and "https://example.org/model.pt" in text
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in text


def test_what_cannot_be_exported_is_named(source: Source, tmp_path: Path) -> None:
    bundle, weights = source("msd_spleen_unet")
    with pytest.raises(FileNotFoundError, match="no weights at .*nowhere.pt: run configs/train.json"):
        export_bundle(bundle, tmp_path / "nowhere.pt", tmp_path, "MSD")
    with pytest.raises(ValueError, match="state dict of .*msd_spleen_unet_segmentation's network, .* differs in"):
        export_bundle(bundle, source("btcv_unet")[1], tmp_path, "MSD")
    with pytest.raises(FileNotFoundError, match="bundle must be a folder with configs/metadata.json"):
        export_bundle(tmp_path, weights, tmp_path / "out", "MSD")
    # the output must not take the place of the bundle itself
    with pytest.raises(ValueError, match="--output must be a folder away from the bundle"):
        export_bundle(bundle, weights, bundle.parent, "MSD")
    assert (bundle / "configs" / "train.json").is_file()
    # nor may it delete what an exported bundle has been used for
    folder = export_bundle(bundle, weights, tmp_path / "out", "MSD")
    with pytest.raises(ValueError, match="--weights must lie outside .*out/hybridmim_msd_spleen_unet_segmentation"):
        export_bundle(bundle, folder / "models" / "model.pt", tmp_path / "out", "MSD")
    (folder / "runs").mkdir()
    with pytest.raises(ValueError, match="holds runs, which an export would delete: move it"):
        export_bundle(bundle, weights, tmp_path / "out", "MSD")
    assert (folder / "models" / "model.pt").is_file()


@pytest.mark.slow
def test_frugal_inference_runs_without_the_package_as_overlay_and_as_part(
    source: Source, isolated: Callable, tmp_path: Path
) -> None:
    data = write_msd_spleen(tmp_path / "data", 1, 1, size=(40, 40, 32), spacing=(7.0, 7.0, 8.0))
    masks = []
    for merged, configs in ((False, ["inference", "frugal_inference"]), (True, ["inference"])):
        folder = export_bundle(*source("msd_spleen_unet"), tmp_path / str(merged), "MSD", frugal_inference=merged)
        assert ("which MONAI Deploy cannot run" in (folder / "docs" / "README.md").read_text()) is merged
        files = [str(folder / "configs" / f"{name}.json") for name in configs]
        arguments = ["-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(folder)]
        arguments += ["--dataset_dir", str(data), "--roi_size", "[48,48,48]", "--spacing", "[6,6,6]"]
        done = isolated(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        (mask,) = (folder / "runs" / "inference").glob("*.nii.gz")
        masks.append(mask.read_bytes())
        mistyped = isolated(*arguments, "--body_treshold", "0")
        assert mistyped.returncode == 1 and "did you mean body_threshold" in mistyped.stderr, mistyped.stderr
    assert masks[0] == masks[1]


@pytest.mark.parametrize("bundle", sorted((ROOT / "bundles").iterdir()), ids=lambda path: path.name.split("_", 1)[1])
def test_every_expression_of_an_exported_config_is_python(bundle: Path) -> None:
    configs = {path.stem: json.loads(path.read_text()) for path in (bundle / "configs").glob("*.json")}
    merged = [str(bundle / "configs" / f"{name}.json") for name in ("inference", "frugal_inference")]
    configs["merged_inference"] = dict(ConfigParser.load_config_files(merged))
    for step, config in configs.items():
        for text in strings_of(vendored(config, step)):
            if text.startswith("$") and not text.startswith("$import "):
                # as MONAI does, which puts a variable in the place of every reference
                ast.parse(re.sub(r"@(?:[\w#-]+)", "_", text[1:]).strip(), mode="eval")


def strings_of(value: Any) -> Iterator[str]:
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings_of(inner)
    elif isinstance(value, str):
        yield value


TWO_IN_ONE_PROCESS = """
import json, sys
from monai.bundle import ConfigWorkflow
roots, data, out = sys.argv[1:3], sys.argv[3], sys.argv[4]
small = dict(roi_size=[48, 48, 48], spacing=[6, 6, 6], num_workers=0, device="cpu", epochs=1, val_interval=1)
small |= dict(steps_per_epoch=2, batch_size=2, crops_per_volume=1, dataset_dir=data)
flows = [
    ConfigWorkflow(f"{root}/configs/train.json", workflow_type="train", logging_file=False, bundle_root=root,
                   output_dir=f"{out}/{i}", ckpt_dir=f"{out}/{i}", **small)
    for i, root in enumerate(roots)
]
for flow in flows: flow.initialize()
for flow in flows: assert flow.check_properties() == []
for flow in flows: flow.run()
for i in range(2): print("version", json.load(open(f"{out}/{i}/model.json"))["components_version"])
"""


@pytest.mark.slow
def test_two_versions_in_one_process_keep_to_their_own_code(source: Source, isolated: Callable, tmp_path: Path) -> None:
    bundle, weights = source("msd_spleen_unet")
    folders = [export_bundle(bundle, weights, tmp_path / place, "MSD") for place in ("old", "new")]
    init = folders[1] / "scripts" / "__init__.py"
    version = init.read_text()
    init.write_text(version.replace('"0.1.0"', '"0.2.0"'))
    assert init.read_text() != version
    data = write_msd_spleen(tmp_path / "data", 6, 0, size=(40, 40, 32), spacing=(7.0, 7.0, 8.0))
    done = isolated("-c", TWO_IN_ONE_PROCESS, *map(str, folders), str(data), str(tmp_path / "out"))
    versions = [line for line in done.stdout.splitlines() if line.startswith("version")]
    assert versions == ["version 0.1.0", "version 0.2.0"], done.stdout + done.stderr


@pytest.mark.slow
def test_monai_loads_the_network_with_its_weights(exported: Callable, source: Source, isolated: Callable) -> None:
    folder = exported("msd_spleen_unet")
    code = "import sys, torch; from monai.bundle import load; "
    code += "network = load(sys.argv[1], bundle_dir=sys.argv[2], workflow_type='inference'); "
    code += "state = torch.load(sys.argv[3], weights_only=True); "
    code += (
        "assert all(torch.equal(t, state[n]) for n, t in network.state_dict().items()); print(type(network).__name__)"
    )
    done = isolated("-c", code, folder.name, str(folder.parent), str(source("msd_spleen_unet")[1]))
    assert done.stdout.splitlines()[-1:] == ["BasicUNet"], done.stderr


HELD = "msd_hippocampus_unet"


def test_weights_of_the_repository_keep_what_was_measured_with_them(tmp_path: Path) -> None:
    bundle = ROOT / "bundles" / f"hybridmim_{HELD}_segmentation"
    values = read_performance(SOURCE, HELD)
    folder = export_bundle(bundle, bundle / "models" / "model.pt", tmp_path)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["eval_metrics"] == values["eval_metrics"] and values["eval_metrics"]["dice_mean"] > 0
    assert values["weights_statement"] in metadata["description"]
    assert "\n".join(values["performance"]) in (folder / "docs" / "README.md").read_text()
    assert (folder / "models" / "model.pt").read_bytes() == (bundle / "models" / "model.pt").read_bytes()


def test_other_weights_have_no_figures_and_must_say_what_they_were_trained_on(source: Source, tmp_path: Path) -> None:
    bundle, weights = source(HELD)
    assert json.loads((bundle / "configs" / "metadata.json").read_text())["eval_metrics"]
    folder = export_bundle(bundle, weights, tmp_path, "scans of my own")
    assert json.loads((folder / "configs" / "metadata.json").read_text())["eval_metrics"] == {}
    text = (folder / "docs" / "README.md").read_text()
    assert "No accuracy has been measured" in text and "The weights were trained on scans of my own." in text
    with pytest.raises(ValueError, match="trained_on must say what the weights were trained on"):
        export_bundle(bundle, weights, tmp_path)
