# SPDX-License-Identifier: Apache-2.0

"""Small volumes in folders, stores made of them, and the plain path that a store must equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from hybridmim_components.store import PreparedStore, StoreSettings, open_store, prepare_store

BUNDLES = Path(__file__).parents[2] / "bundles"
MODALITIES = ("flair", "t1", "t1ce", "t2")
CT = {"spacing": (1.5, 1.5, 2.0), "intensity_range": (-57, 164)}
MRI = {"spacing": (1.0, 1.0, 1.0), "modalities": MODALITIES}
ONE_CHANNEL = {"spacing": (1.0, 1.0, 1.0), "clip_percentiles": (0.5, 99.5)}
# stored in another orientation than RAS, and slanted like a scanner's gantry
AFFINE = np.diag([-1.9, -1.9, 2.5, 1.0]) + np.array([[0, 0, 0.2, 90], [0, 0, 0, 80], [0, 0, 0, -40], [0, 0, 0, 0]])


def ct_voxels(seed: int, shape: tuple[int, int, int] = (58, 50, 24)) -> np.ndarray:
    """An ellipsoid of soft tissue with noise, in air."""
    generator = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = sum((axis - 0.1 * seed % 0.3) ** 2 for axis in axes) < 0.6
    return np.where(body, generator.normal(40, 60, shape), -1000).astype(np.int16)


def write_ct(path: Path, seed: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(ct_voxels(seed, **options), AFFINE), path)
    return path


def write_mri(folder: Path, seed: int) -> list[str]:
    """Four modalities of a brain whose background is 0."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    brain = ct_voxels(seed, (40, 44, 36)) > -1000
    paths = []
    for number, name in enumerate(MODALITIES):
        voxels = np.where(brain, generator.gamma(4, 50 * (number + 1), brain.shape), 0).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([1, 1, 1.2, 1])), folder / f"{folder.name}_{name}.nii.gz")
        paths.append(str(folder / f"{folder.name}_{name}.nii.gz"))
    return paths


def records_of(store: Path) -> dict[str, dict[str, Any]]:
    """What stands in the zarr.json of each volume."""
    found = {path.parent.name: json.loads(path.read_text()) for path in store.glob("*/zarr.json")}
    return {name: metadata["attributes"]["hybridmim"] for name, metadata in found.items()}


@pytest.fixture(scope="session")
def ct_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct_images")
    for seed in range(5):
        write_ct(folder / f"scan_{seed}.nii.gz", seed)
    return folder


@pytest.fixture(scope="session")
def mri_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mri_images")
    for seed in range(2):
        write_mri(folder / f"case_{seed}", seed)
    return folder


@pytest.fixture(scope="session")
def ct_store(ct_images: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    store = tmp_path_factory.mktemp("ct_store")
    assert prepare_store(ct_images, store, StoreSettings(**CT), num_workers=0) == 5
    return open_store(store, **CT)


@pytest.fixture(scope="session")
def mri_store(mri_images: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    store = tmp_path_factory.mktemp("mri_store")
    assert prepare_store(mri_images, store, StoreSettings(**MRI), num_workers=0) == 2
    return open_store(store, **MRI)


@pytest.fixture(scope="session")
def one_channel_store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    images, store = tmp_path_factory.mktemp("one_channel_images"), tmp_path_factory.mktemp("one_channel_store")
    for seed in range(2):
        voxels = np.random.default_rng(seed).gamma(4, 5000, (40, 44, 36)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([1, 1, 1.2, 1])), images / f"case_{seed}.nii.gz")
    assert prepare_store(images, store, StoreSettings(**ONE_CHANNEL), num_workers=0) == 2
    return open_store(store, **ONE_CHANNEL)


@pytest.fixture(scope="session")
def plain() -> Callable[..., Any]:
    """A part of the pretrain.json of a bundle, with the settings that a test's store has."""

    def parsed(bundle: str, part: str, settings: dict[str, Any], roi_size: list[int]) -> Any:
        parser = ConfigParser()
        parser.read_config(str(BUNDLES / f"hybridmim_{bundle}_segmentation" / "configs" / "pretrain.json"))
        for name, value in {**settings, "roi_size": roi_size}.items():
            parser[name] = list(value)
        # crops and pads alone: what comes after them is random
        parser["train#random_transforms"] = parser["train#random_transforms"][:2]
        return parser.get_parsed_content(part)

    return parsed
