# SPDX-License-Identifier: Apache-2.0

"""The committed bundles are what their source renders, and another pair is what CONTRIBUTING.md says it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import render_bundles

from hybridmim_components.phantoms import write_msd_liver
from hybridmim_components.weights import read_weights

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "ci" / "render_bundles.py"


def render(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_committed_bundles_are_what_the_source_renders(tmp_path: Path) -> None:
    assert render("--output", str(tmp_path)).returncode == 0
    tracked = subprocess.run(["git", "ls-files", "bundles"], cwd=ROOT, capture_output=True, text=True, check=True)
    committed = {name.removeprefix("bundles/"): (ROOT / name).read_bytes() for name in tracked.stdout.splitlines()}
    assert len({name.split("/")[0] for name in committed}) == 12
    held = {f"hybridmim_msd_hippocampus_unet_segmentation/models/model.{suffix}" for suffix in ("pt", "json")}
    assert held < committed.keys(), "the weights that benchmarks/trained_weights.py made"
    assert files_of(tmp_path) == {name: text for name, text in committed.items() if name not in held}


def test_check_names_what_differs(tmp_path: Path) -> None:
    assert render("--output", str(tmp_path)).returncode == 0
    assert render("--check", "--output", str(tmp_path)).returncode == 0
    edited = tmp_path / "hybridmim_btcv_unet_segmentation" / "configs" / "train.json"
    edited.write_text(edited.read_text().replace('"seed": 0', '"seed": 1'))
    done = render("--check", "--output", str(tmp_path))
    assert done.returncode == 1 and str(edited) in done.stderr and done.stderr.count(".json") == 1
    surplus = edited.with_name("extra.json")
    surplus.write_text("{}")
    assert str(surplus) in render("--check", "--output", str(tmp_path)).stderr


def test_every_bundle_has_the_files_of_a_bundle_in_the_style_of_the_model_zoo() -> None:
    wanted = {"LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"}
    names = "pretrain train evaluate inference multi_gpu_pretrain multi_gpu_train multi_gpu_evaluate metadata"
    wanted |= {f"configs/{name}.json" for name in names.split()}
    for folder in (ROOT / "bundles").iterdir():
        found = files_of(folder)
        assert wanted <= set(found)
        for name in wanted:
            text = found[name].decode()
            assert text.endswith("\n") and "\r" not in text and "{{" not in text, f"{folder.name}/{name}"
        for name in (n for n in wanted if n.endswith(".json")):
            assert re.match(r'\{\n    "', found[name].decode())


def test_the_readme_lists_every_bundle() -> None:
    readme = (ROOT / "README.md").read_text()
    for folder in (ROOT / "bundles").iterdir():
        assert f"(bundles/{folder.name}/docs/README.md)" in readme


def test_a_bundle_rendered_for_two_modalities_says_so_in_its_metadata(tmp_path: Path) -> None:
    done = render("--dataset", "brats2020", "--set", 'modalities=["flair","t1ce"]', "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    for folder in tmp_path.iterdir():
        image = json.loads((folder / "configs" / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
        assert image["num_channels"] == 2 and image["channel_def"] == {"0": "flair", "1": "t1ce"}
        for name in ("pretrain", "train", "inference"):
            assert json.loads((folder / "configs" / f"{name}.json").read_text())["modalities"] == ["flair", "t1ce"]
    assert len(list(tmp_path.iterdir())) == 2


def test_templates_replace_values_of_any_type() -> None:
    values = render_bundles.Values({"one": {"n": 3, "l": [1, "{{n}}"], "d": {"a": "{{n}} mm"}}, "two": {"n": 4}})
    template = {"x": "{{n}}", "y": "{{l}}", "z": [0, "{{*l}}"], "{{*d}}": True, "t": "{{n}}-{{n}}"}
    assert values.render(template) == {"x": 4, "y": [1, 4], "z": [0, 1, 4], "a": "4 mm", "t": "4-4"}
    with pytest.raises(KeyError, match=r"no value for \{\{m\}\}: known are d, l, n"):
        values.render("{{m}}")


def test_a_value_that_nothing_uses_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ci" / "bundles", tmp_path / "source")
    path = tmp_path / "source" / "datasets" / "btcv.json"
    path.write_text(path.read_text().replace('"cache"', '"cahce": "none",\n    "cache"'))
    with pytest.raises(ValueError, match="no template uses cahce of btcv or unet"):
        render_bundles.render_bundle(tmp_path / "source", "btcv", "unet")


@pytest.fixture(scope="module")
def walk_through(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source with the files that CONTRIBUTING.md shows, and what they render to."""
    root = tmp_path_factory.mktemp("another")
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text[text.index("### Adding a data set and a backbone") :]
    (dataset, backbone), (module,) = (re.findall(rf"```{kind}\n(.*?)```", section, re.S) for kind in ("json", "python"))
    shutil.copytree(ROOT / "ci" / "bundles", root / "source")
    (root / "source" / "datasets" / "msd_pancreas.json").write_text(dataset)
    (root / "source" / "backbones" / "segresnet.json").write_text(backbone)
    (root / "segresnet_backbone.py").write_text(module)
    done = render("--source", str(root / "source"), "--output", str(root / "bundles"))
    assert done.returncode == 0, done.stderr
    assert len(list((root / "bundles").iterdir())) == 6 * 3 + 2  # and DynUNet for two data sets
    return root


@pytest.mark.slow
def test_the_walk_through_gives_a_pair_that_pretrains_trains_and_infers(
    walk_through: Path, monai_run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(walk_through), prepend=os.pathsep)
    bundle, out = walk_through / "bundles" / "hybridmim_msd_pancreas_segresnet_segmentation", walk_through / "out"
    # the labels of the liver's phantoms, liver and tumour, stand for the pancreas's
    data = write_msd_liver(walk_through / "data", 6, 1, size=(40, 40, 32), spacing=(7.0, 7.0, 8.0))
    small = {"spacing": [6, 6, 6], "roi_size": [48, 48, 48], "network_def#init_filters": 8, "device": "cpu"}
    small |= {"num_workers": 0, "dataset_dir": data, "ckpt_dir": out / "models"}
    train = {"epochs": 1, "steps_per_epoch": 2, "val_interval": 1, "batch_size": 2, "crops_per_volume": 1}
    train |= {"cache": "memory"}
    steps = {
        "pretrain": train | {"subvolume_size": [16, 16, 16], "patch_size": [8, 8, 8]},
        "train": train | {"pretrained": out / "models" / "pretrained" / "model.pt"},
        "inference": {},
    }
    for name, overrides in steps.items():
        done = monai_run(bundle, [name], walk_through, **small, **overrides, output_dir=out / name)
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"
    assert read_weights(out / "models" / "model.pt")[1]["pretrained"]
    (image,) = (data / "imagesTs").glob("*.nii.gz")
    (mask,) = (out / "inference").glob("*.nii.gz")
    assert nib.load(mask).shape == nib.load(image).shape
    assert np.allclose(nib.load(mask).affine, nib.load(image).affine, atol=1e-4)


def test_values_of_labels_with_a_gap_are_refused(tmp_path: Path) -> None:
    change = 'label_names={"0": "background", "2": "spleen"}'
    done = render("--dataset", "msd_spleen", "--backbone", "unet", "--set", change, "--output", str(tmp_path))
    assert done.returncode != 0 and "label_names of msd_spleen must be 0 to 1 without a gap, got 0, 2" in done.stderr
    done = render("--dataset", "btcv", "--backbone", "dynunet", "--output", str(tmp_path))
    assert done.returncode == 2 and "there is no bundle of btcv and dynunet" in done.stderr
    assert not list(tmp_path.iterdir())
