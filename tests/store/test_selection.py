# SPDX-License-Identifier: Apache-2.0

"""Which volumes of a store pre-training sees: never a held-out case, each image once, and none is read for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridmim_components.data import inspection, pretraining_lists
from hybridmim_components.phantoms import write_msd_spleen
from hybridmim_components.store import PreparedStore, StoredPool, StoreSettings, open_store, prepare_store
from hybridmim_components.workflow.preflight import check_pretraining

SETTINGS = StoreSettings((6, 6, 6), (-57, 164))
RUN = {"batch_size": 2, "crops_per_volume": 1, "contrast_weight": 0.1}


@pytest.fixture(scope="module")
def spleen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled cases."""
    root = tmp_path_factory.mktemp("spleen") / "Task09_Spleen"
    return write_msd_spleen(root, 6, 0, size=(40, 40, 32), spacing=(7.0, 7.0, 8.0))


@pytest.fixture
def prepared(spleen: Path, tmp_path: Path) -> Callable[[Path], PreparedStore]:
    def make(images: Path) -> PreparedStore:
        prepare_store(images, tmp_path / "store", SETTINGS, num_workers=0)
        return open_store(tmp_path / "store", **SETTINGS.as_dict())

    return make


def check(store: PreparedStore, spleen: Path | str, tmp_path: Path, fold: Any = 0) -> tuple[dict[str, Any], set[str]]:
    """What a run would see, and the images of its held-out cases."""
    lists = pretraining_lists("msd_spleen", str(spleen), fold=fold, pool=StoredPool(store, 0.3, 0))
    return check_pretraining(lists, tmp_path / "out", **RUN), {item["image"] for item in lists["held_out"]}


def sources(volumes: dict[str, Any]) -> list[str]:
    return sorted(item["image"][0] for part in ("training", "validation") for item in volumes[part])


def test_held_out_cases_are_left_out_without_reading_a_volume(
    spleen: Path, tmp_path: Path, prepared: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepared(spleen / "imagesTr")

    def read_volume(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("nothing needs to be read")

    monkeypatch.setattr(inspection, "read_volume", read_volume)
    volumes, held_out = check(store, spleen, tmp_path)
    assert len(held_out) == 2
    assert sources(volumes) == sorted(str(p) for p in (spleen / "imagesTr").glob("*.nii.gz") if str(p) not in held_out)
    assert len(volumes["validation"]) == 1 and len(set(volumes["fingerprints"])) == 4
    # with fold all nothing is held out, as without a data set
    assert len(sources(check(store, spleen, tmp_path, "all")[0])) == 6
    assert len(sources(check(store, "", tmp_path)[0])) == 6


def test_renamed_copies_of_held_out_cases_are_left_out_too(
    spleen: Path, tmp_path: Path, prepared: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "scans").mkdir()
    for number, path in enumerate(sorted((spleen / "imagesTr").glob("*.nii.gz"))):
        shutil.copyfile(path, tmp_path / "scans" / f"anonymous_{number}.nii.gz")
    with caplog.at_level("INFO"):
        volumes, held_out = check(prepared(tmp_path / "scans"), spleen, tmp_path)
    assert "Left out 2 volume(s) of the store that are cases to hold out" in caplog.text
    recipe = {"volumes": volumes["fingerprints"]}
    alone, _ = check(prepared(spleen / "imagesTr"), spleen, tmp_path)
    # the copies and their originals are now in one store, and still each image is seen once
    assert alone["fingerprints"] == recipe["volumes"] and len(recipe["volumes"]) == 4
    assert len(alone["training"]) + len(alone["validation"]) == 4


def test_a_replaced_held_out_case_is_read_anew(spleen: Path, tmp_path: Path, prepared: Callable) -> None:
    shutil.copytree(spleen, tmp_path / "data")
    data = tmp_path / "data"
    store = prepared(data / "imagesTr")
    held_out = sorted(check(store, data, tmp_path)[1])
    other = next(p for p in sorted((data / "imagesTr").glob("*.nii.gz")) if str(p) not in held_out)
    shutil.copyfile(other, held_out[0])
    volumes, _ = check(store, data, tmp_path)
    assert str(other) not in sources(volumes)
    # what the store was prepared from is another image now, and may be seen
    assert held_out[0] in sources(volumes)


def test_the_split_does_not_depend_on_where_the_store_lies(spleen: Path, tmp_path: Path, prepared: Callable) -> None:
    volumes, _ = check(prepared(spleen / "imagesTr"), spleen, tmp_path)
    shutil.copytree(tmp_path / "store", tmp_path / "moved")
    moved, _ = check(open_store(tmp_path / "moved", **SETTINGS.as_dict()), spleen, tmp_path)
    for part in ("training", "validation"):
        assert [item["volume"] for item in volumes[part]] == [item["volume"] for item in moved[part]]


def test_weights_that_saw_a_held_out_case_are_refused(spleen: Path, tmp_path: Path, prepared: Callable) -> None:
    store = prepared(spleen / "imagesTr")
    lists = pretraining_lists("msd_spleen", str(spleen), pool=StoredPool(store, 0.1, 0))
    seen = {"volumes": [digest.decode() for digest in store.rows["fingerprints"].ravel()]}
    with pytest.raises(ValueError, match=r"2 held-out volume\(s\) cannot be evaluated on: the same image is among"):
        check_pretraining(lists, tmp_path / "out", pretraining_recipe=seen, **RUN)


def test_folders_beside_a_store_are_refused(spleen: Path, prepared: Callable) -> None:
    with pytest.raises(ValueError, match=r"unlabelled_dirs must be empty with cache 'store', got \['x'\]"):
        pretraining_lists("msd_spleen", str(spleen), ["x"], pool=StoredPool(prepared(spleen / "imagesTr"), 0.1, 0))


def test_a_store_of_a_later_format_is_refused(spleen: Path, tmp_path: Path, prepared: Callable) -> None:
    prepared(spleen / "imagesTr")
    metadata = json.loads((tmp_path / "store" / "zarr.json").read_text())
    metadata["attributes"]["hybridmim"]["format"] = 2
    (tmp_path / "store" / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="store must be of format 1, got 2 in .*: update this package"):
        open_store(tmp_path / "store", **SETTINGS.as_dict())


def test_a_volume_that_shares_one_modality_with_another_is_left_out(mri_store: PreparedStore, tmp_path: Path) -> None:
    store = open_store(mri_store.place.url, **mri_store.settings.as_dict())
    store.rows = np.concatenate([store.rows, store.rows])
    store.rows["fingerprints"][2] = [b"a" * 64, store.rows["fingerprints"][1][0], b"b" * 64, b"c" * 64]
    store.rows["fingerprints"][3] = [letter * 64 for letter in (b"d", b"e", b"f", b"0")]
    lists = pretraining_lists("brats2020", "", pool=StoredPool(store, 0.3, 0))
    volumes = check_pretraining(lists, tmp_path / "out", **RUN)
    assert sorted(item["row"] for part in ("training", "validation") for item in volumes[part]) == [0, 1, 3]
