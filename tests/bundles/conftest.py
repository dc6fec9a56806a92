# SPDX-License-Identifier: Apache-2.0

"""The bundles with settings small enough for a test, and phantoms of their data sets."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from render_bundles import SOURCE, combinations

from hybridmim_components.phantoms import PhantomFolders, write_phantoms

BUNDLES = Path(__file__).parents[2] / "bundles"
# each kind of image and each backbone; the others differ from these in single values, see test_configs.py, and are for
# --full
BY_DEFAULT = ("brats2020_unet", "btcv_swinunetr", "msd_hippocampus_dynunet", "msd_spleen_unet")
NAMES = [
    pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.full)
    for name in (f"{dataset}_{backbone}" for dataset, backbone in combinations(SOURCE))
]
NETWORKS: dict[str, dict[str, Any]] = {
    "dynunet": {"network_def#filters": [4, 4, 4, 8, 8]},
    "unet": {"network_def#features": [4, 4, 4, 8, 8, 4]},
    "swinunetr": {"network_def#feature_size": 12, "network_def#depths": [1, 1, 1, 1]},
}
CROPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **dict.fromkeys(
        ("dynunet", "unet"), ({"roi_size": [48, 48, 48]}, {"subvolume_size": [16, 16, 16], "patch_size": [8, 8, 8]})
    ),
    "swinunetr": ({"roi_size": [64, 64, 64]}, {"subvolume_size": [32, 32, 32], "patch_size": [16, 16, 16]}),
}
CT_GRID = {"size": (40, 40, 32), "spacing": (7.0, 7.0, 8.0)}
GRIDS = {"brats2020": {"size": (36, 44, 36), "spacing": (4.4, 4.0, 4.2)}, "msd_hippocampus": {}}
SPACINGS = {"brats2020": 5.0, "msd_hippocampus": 1.0}
CONFIGS = {"pretrain": ["pretrain"], "train": ["train"], "evaluate": ["train", "evaluate"], "inference": ["inference"]}


@dataclass(frozen=True)
class Bundle:
    """A bundle and overrides that shrink it."""

    name: str

    @property
    def dataset(self) -> str:
        return self.name.rpartition("_")[0]

    @property
    def backbone(self) -> str:
        return self.name.rpartition("_")[2]

    @property
    def path(self) -> Path:
        return BUNDLES / f"hybridmim_{self.name}_segmentation"

    def config(self, name: str) -> dict[str, Any]:
        return json.loads((self.path / "configs" / f"{name}.json").read_text(encoding="utf-8"))

    def config_files(self, step: str) -> list[str]:
        return [str(self.path / "configs" / f"{name}.json") for name in CONFIGS[step]]

    def small(self, step: str) -> dict[str, Any]:
        """Overrides for a step."""
        spacing = [SPACINGS.get(self.dataset, 6.0)] * 3
        # crops of a hippocampus are small as they are, and this network, which has fewer levels
        crop, masking = CROPS[self.backbone] if self.dataset != "msd_hippocampus" else ({}, {})
        network = NETWORKS[self.backbone] if self.name != "msd_hippocampus_dynunet" else {}
        base = {**network, **crop, "spacing": spacing, "device": "cpu", "num_workers": 0}
        schedule = {"epochs": 2, "steps_per_epoch": 2, "val_interval": 1, "batch_size": 2, "crops_per_volume": 1}
        schedule |= {"cache": "memory"}
        return base | (schedule if step in ("pretrain", "train") else {}) | (masking if step == "pretrain" else {})


def phantoms_of(root: Path, dataset: str) -> PhantomFolders:
    return write_phantoms(dataset, root, num_training=6, num_test=1, num_unlabelled=2, **GRIDS.get(dataset, CT_GRID))


@pytest.fixture(scope="session", params=NAMES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """Each bundle; by default some of them."""
    return Bundle(request.param)


@pytest.fixture(scope="session")
def spleen() -> Bundle:
    return Bundle("msd_spleen_unet")


@pytest.fixture(scope="session")
def brats() -> Bundle:
    return Bundle("brats2020_unet")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PhantomFolders]:
    """Phantoms of a data set: 6 labelled cases, 1 to infer on, and 2 unlabelled."""
    made: dict[str, PhantomFolders] = {}

    def make(dataset: str) -> PhantomFolders:
        if dataset not in made:
            made[dataset] = phantoms_of(tmp_path_factory.mktemp(dataset), dataset)
        return made[dataset]

    return make


@pytest.fixture(scope="session")
def step(monai_run: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Run a step of a bundle as typed in a shell, from a working directory that is not the bundle's."""

    def run_step(bundle: Bundle, name: str, **overrides: object) -> subprocess.CompletedProcess[str]:
        cwd = tmp_path_factory.getbasetemp()
        return monai_run(bundle.path, CONFIGS[name], cwd, **{**bundle.small(name), **overrides})

    return run_step


def readme_commands(bundle: Path) -> dict[str, str]:
    """The first block of commands of a bundle's README, by step."""
    text = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    lines = text.split("```bash\n")[1].split("```")[0].splitlines()
    return dict(zip(CONFIGS, lines, strict=True))


@pytest.fixture(scope="session")
def run(phantoms: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Bundle], Path]:
    """The commands of a bundle's README, as typed in the root folder, with overrides that shrink them.

    They run on a copy of the bundle, once in a session; the folder ``runs`` of the copy is given.
    """
    done: dict[str, Path] = {}

    def run_all(bundle: Bundle) -> Path:
        if bundle.name not in done:
            copy, data = tmp_path_factory.mktemp(bundle.name) / bundle.path.name, phantoms(bundle.dataset)
            shutil.copytree(bundle.path, copy, ignore=shutil.ignore_patterns("models", "runs"))
            places = {"BUNDLE": str(copy), "DATA": str(data.dataset_dir)}
            python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            extra = {"pretrain": {"unlabelled_dirs": data.unlabelled_dir}, "inference": {"image_dir": data.image_dir}}
            for name, command in readme_commands(copy).items():
                overrides = bundle.small(name) | extra.get(name, {})
                words = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
                result = subprocess.run(
                    f"{command} {shlex.join(words)}",
                    shell=True,
                    cwd="/",
                    env={**os.environ, **places, "PATH": python},
                    capture_output=True,
                    text=True,
                )
                assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
                (copy / "runs" / f"{name}.log").write_text(result.stdout + result.stderr)
            done[bundle.name] = copy / "runs"
        return done[bundle.name]

    return run_all
