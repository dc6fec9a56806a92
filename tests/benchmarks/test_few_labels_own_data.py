# SPDX-License-Identifier: Apache-2.0

"""The few-label study runs on a data set that it was not made for, with further volumes and own settings."""

from __future__ import annotations

import json
from pathlib import Path

import few_labels
import few_labels_cells
import pytest
from few_labels_cells import Cell
from few_labels_patients import Patients

from hybridmim_components.phantoms import write_phantoms
from hybridmim_components.system.folder_lock import FolderLock


def settings_file(path: Path, **content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_further_volumes_are_no_labelled_cases(tmp_path: Path) -> None:
    folders = write_phantoms("msd_spleen", tmp_path, 8, 1, 1, size=(24, 24, 16))
    task = folders.dataset_dir
    own = Patients("msd_spleen", str(task), 2, 2, [str(task / "imagesTr"), str(task / "imagesTs")])
    assert [Path(str(path)).name for path in own.further] == ["spleen_9.nii.gz"]
    names = [Path(item["image"]).name for item in own.unlabelled()["training"]]
    assert len(names) == len(set(names)) == 4 and "spleen_9.nii.gz" in names


def test_a_stranger_measures_it_on_an_own_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From raw images to the table, all small: another bundle, own sets of patients, own network and further scans."""
    folders = write_phantoms("msd_spleen", tmp_path / "data", 8, 0, 2, size=(24, 24, 16))
    small = {
        "roi_size": [32, 32, 32],
        "spacing": [6, 6, 6],
        "network_def#features": [4, 4, 4, 4, 4, 4],
        "batch_size": 2,
    }
    settings = settings_file(tmp_path / "settings.json", test=2, tuning=2, pretrain=small, train=small)
    for module in (few_labels, few_labels_cells):
        monkeypatch.setattr(module, "STEPS_PER_EPOCH", 10)
    output = tmp_path / "results"
    places = {
        "--bundle": "msd_spleen_unet",
        "--dataset_dir": folders.dataset_dir,
        "--unlabelled_dirs": folders.unlabelled_dir,
        "--settings": settings,
        "--output": output,
        "--work": tmp_path / "work",
    }
    run = ["run", *(str(word) for pair in places.items() for word in pair), "--arms", "scratch", "hybridmim"]
    run += "--labels 1 --steps 10 --pretraining_minutes 0.01 --processes 1 --only_seeds 3".split()
    rates = [
        {**Cell(arm, 1, seed, "tuning", 0.01, 10, 0).__dict__, "dice": 0.5}
        for arm in ("scratch", "hybridmim")
        for seed in few_labels.TUNING_SEEDS
    ]
    with pytest.raises(SystemExit, match="few_labels: labels must be from 0"):
        few_labels.main([*run, "--labels", "5"])
    message = r"few_labels: pretrain.json of .*: the contrastive loss needs crops .*\(log: "
    with pytest.raises(SystemExit, match=message):
        few_labels.main(["tune", *run[1:-2]])  # one volume in a batch
    small["crops_per_volume"] = 1
    settings_file(settings, test=2, tuning=2, pretrain=small, train=small)  # mended, in the same folders
    with pytest.raises(SystemExit, match="few_labels: tune scratch first: .*tuning.csv has no learning rate of it"):
        few_labels.main(run)
    few_labels.add_rows(output / "tuning.csv", rates)
    (output / "seconds_per_step.json").write_text('{"hybridmim": 0.06}')
    few_labels.main(run)
    rows = few_labels.read_rows(output / "cells.csv")
    cells = [(r["arm"], r["seed"], len(r["dice_by_patient"].split(";"))) for r in rows]
    assert cells == [("scratch", "3", 2), ("hybridmim", "3", 2)]
    assert len(few_labels.read_rows(output / "pretraining.csv")) == 1
    assert "| 1 | 10 | HybridMIM | 1 |" in (output / "table.md").read_text()
    seen = few_labels._study.patients.unlabelled()
    assert len(seen["training"]) == 3 + 2 and len(seen["validation"]) == 1 and len(seen["held_out"]) == 4
    assert len({item["volume"] for part in ("training", "validation") for item in seen[part]}) == 6
    few_labels.main(["probe", *run[1:]])
    few_labels.main(["probe", *run[1:]])  # nothing is missing
    probed = few_labels.read_rows(output / "probe.csv")
    assert [(r["arm"], len(r["dice_by_patient"].split(";"))) for r in probed] == [("scratch", 2), ("hybridmim", 2)]
    assert all(0.05 < float(row["dice"]) <= 1 for row in probed) and probed[0]["dice"] != probed[1]["dice"]
    assert "| 1 | HybridMIM | 1 |" in (output / "probe.md").read_text()
    # what would make the table unfair or lose rows is refused before anything is computed
    with pytest.raises(SystemExit, match="another study, pretraining_minutes was 0.01, is 0.02: give another --output"):
        few_labels.main([*run, "--pretraining_minutes", "0.02"])
    lock = FolderLock(output=output)
    with pytest.raises(SystemExit, match="few_labels: output .* is in use by process"):
        few_labels.main(run)
    lock.release()
    better = [{**row, "learning_rate": 0.02, "dice": 0.6} for row in rates]
    few_labels.add_rows(output / "tuning.csv", better)
    with pytest.raises(SystemExit, match="scratch with 1 labels and 10 steps at another learning rate"):
        few_labels.main(run)
    assert few_labels.read_rows(output / "cells.csv") == rows
