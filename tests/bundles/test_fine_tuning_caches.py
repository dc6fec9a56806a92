# SPDX-License-Identifier: Apache-2.0

"""What the caches of the bundles' configs share and repeat: each volume read once, and the batches of plain MONAI."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import pytest
import torch
from monai.bundle import ConfigParser

PLAIN = {"hybridmim_components.data.CountedCropBy": "RandCropBy"}


def parsed(bundle: Any, step: str, data: Any, folder: Path, **overrides: object) -> ConfigParser:
    text = json.dumps(bundle.config(step))
    if overrides.pop("plain", False):
        for ours, monais in PLAIN.items():
            assert ours in text
            text = text.replace(ours, monais)
        text = text.replace(" + [@crop_counts]", "")
    places = {"bundle_root": str(folder), "dataset_dir": str(data.dataset_dir)}
    parser = ConfigParser()
    parser.read_config(json.loads(text))
    # steps enough to pass through all volumes twice
    schedule = {"batch_size": 4, "crops_per_volume": 2, "steps_per_epoch": 6}
    parser.update({**bundle.small(step), **places, **schedule, **overrides})
    return parser


def batches(parser: ConfigParser, part: str = "train") -> list[dict[str, Any]]:
    return list(parser.get_parsed_content(f"{part}#dataloader"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """How often each file was read."""
    counted: Counter = Counter()
    load = nibabel.load

    def counting(path: Any, *args: Any, **kwargs: Any) -> Any:
        counted[Path(path).name + Path(path).parent.name] += 1
        return load(path, *args, **kwargs)

    monkeypatch.setattr(nibabel, "load", counting)
    yield counted


def test_folds_fractions_and_runs_read_each_volume_once_in_all(
    spleen, phantoms: Callable, tmp_path: Path, reads: Counter
) -> None:
    data = phantoms("msd_spleen")
    for changes in (
        *({"fold": fold} for fold in range(5)),
        {"fold": 1, "label_fraction": 0.5},
        {"fold": ["spleen_2"], "output_dir": str(tmp_path / "other"), "seed": 3, "roi_size": [32, 32, 32]},
    ):
        parser = parsed(spleen, "train", data, tmp_path, cache="disk", **changes)
        # in one batch lie volumes that another fold has read, and new ones
        assert all(batch["image"].shape[1] == 1 for part in ("train", "validate") for batch in batches(parser, part))
    assert len(reads) == 12 and set(reads.values()) == {1}
    assert len(list((tmp_path / "runs" / "cache").iterdir())) == 6
    batches(parsed(spleen, "train", data, tmp_path, cache="disk", fold=0, spacing=[7.0, 6.0, 6.0]))
    assert max(reads.values()) == 2  # other settings, other entries


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Num foregrounds")
@pytest.mark.parametrize("step", ["train", "pretrain"])
@pytest.mark.parametrize("dataset", ["brats2020", "btcv", "msd_spleen"])
def test_each_cache_gives_the_batches_of_monais_own_crops_without_a_cache(
    spleen, phantoms: Callable, tmp_path: Path, dataset: str, step: str
) -> None:
    bundle, data = type(spleen)(f"{dataset}_unet"), phantoms(dataset)
    # the checks before a run have nothing to do with crops
    lists = {f"{part}#dataset#data": f"$@lists['{name}']" for part, name in (("train", "training"),)}
    overrides = lists if step == "pretrain" else {}
    plain = batches(parsed(bundle, step, data, tmp_path, plain=True, cache="none", **overrides))
    assert len(plain) > 0
    for cache in ("none", "memory", "disk", "disk"):  # filled, then read
        found = batches(parsed(bundle, step, data, tmp_path, cache=cache, **overrides))
        assert len(found) == len(plain)
        for batch, expected in zip(found, plain, strict=True):
            keys = ("image", "label") if step == "train" else ("image", "volume")
            assert all(torch.equal(torch.as_tensor(batch[k]), torch.as_tensor(expected[k])) for k in keys)
            assert set(batch) == set(expected)
