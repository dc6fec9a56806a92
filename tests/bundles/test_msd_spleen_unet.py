# Copyright 2026 HybridMIM bundles contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The bundle as its users run it: every config by MONAI's own command, on phantoms, from another working directory."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.scripts import verify_net_in_out

from hybridmim_components.data import split_cases
from hybridmim_components.data.phantoms import write_msd_spleen, write_unlabelled
from hybridmim_components.weights import load_pretrained, read_weights, save_weights

BUNDLE = Path(__file__).parents[2] / "bundles" / "hybridmim_msd_spleen_unet_segmentation"
NETWORK = {"network_def#features": [4, 4, 4, 8, 8, 4], "device": "cpu", "num_workers": 0}
SMALL = {**NETWORK, "spacing": [6.0, 6.0, 6.0], "roi_size": [48, 48, 48]}
TRAIN = {**SMALL, "epochs": 2, "val_interval": 1, "batch_size": 2, "crops_per_volume": 1}
PRETRAIN = {**TRAIN, "subvolume_size": [16, 16, 16], "patch_size": [8, 8, 8]}
WORKFLOWS = {
    "pretrain": ("train", ["pretrain"], PRETRAIN),
    "train": ("train", ["train"], TRAIN),
    "evaluate": ("train", ["train", "evaluate"], SMALL),
    "inference": ("infer", ["inference"], SMALL),
}


def config_files(names: list[str]) -> list[str]:
    return [str(BUNDLE / "configs" / f"{name}.json") for name in names]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    grid = {"size": (40, 40, 32), "spacing": (7.0, 7.0, 8.0)}
    write_msd_spleen(root / "Task09_Spleen", 6, 1, **grid)
    write_unlabelled(root / "unlabelled", 2, **grid)
    return root


@pytest.fixture(scope="module")
def step(monai_run: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Run one of ``WORKFLOWS`` with its small settings, from a working directory that is not the bundle's."""

    def run_step(name: str, **overrides: object) -> subprocess.CompletedProcess[str]:
        _, configs, small = WORKFLOWS[name]
        return monai_run(BUNDLE, configs, tmp_path_factory.getbasetemp(), **{**small, **overrides})

    return run_step


@pytest.fixture(scope="module")
def run(step: Callable, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four steps, one after the other."""
    out = tmp_path_factory.mktemp("run")
    common = {"dataset_dir": data / "Task09_Spleen", "ckpt_dir": out / "models"}
    extra: dict[str, dict[str, object]] = {
        "pretrain": {"unlabelled_dirs": data / "unlabelled"},
        "train": {"pretrained": out / "models" / "pretrained" / "model.pt"},
    }
    for name in WORKFLOWS:
        done = step(name, output_dir=out / name, **common, **extra.get(name, {}))
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"
        (out / f"{name}.log").write_text(done.stdout + done.stderr)
    return out


@pytest.mark.slow
class TestAllSteps:
    def test_pretraining_leaves_weights_curves_previews_and_a_checkpoint(self, run: Path) -> None:
        state, recipe = read_weights(run / "models" / "pretrained" / "model.pt")
        network = ConfigParser({"n": {"_target_": "BasicUNet", "out_channels": 2, "features": [4, 4, 4, 8, 8, 4]}})
        assert load_pretrained(network.get_parsed_content("n"), run / "models" / "pretrained" / "model.pt").share == 1
        assert recipe["spacing"] == [6, 6, 6] and recipe["intensity_range"] == [-57, 164]
        # 6 cases less 2 that fold 0 holds out, and 2 unlabelled ones
        assert len(recipe["volumes"]) == 6
        assert "spleen" not in json.dumps(recipe).replace("msd_spleen", "")
        curve = rows(run / "pretrain" / "training.csv")
        assert [r["epoch"] for r in curve] == ["1", "2"]
        assert all(float(r[t]) > 0 for r in curve for t in ("partial_region", "number", "location", "contrast"))
        assert len(list((run / "pretrain" / "previews").glob("*.png"))) == 2
        assert list((run / "pretrain" / "tensorboard").iterdir())
        checkpoints = list((run / "pretrain" / "checkpoints").iterdir())
        assert any("final" in p.name for p in checkpoints)
        for checkpoint in checkpoints:
            assert set(torch.load(checkpoint, weights_only=True)) == {"network", "optimizer", "lr_scheduler"}

    def test_finetuning_starts_from_them_and_leaves_a_bare_state_dict(self, run: Path) -> None:
        assert "Loaded pre-trained weights" in (run / "train.log").read_text()
        assert "100.0% of the values outside the output layer" in (run / "train.log").read_text()
        state, recipe = read_weights(run / "models" / "model.pt")
        assert "final_conv.weight" in state and recipe["pretrained"] is True
        pretrained = read_weights(run / "models" / "pretrained" / "model.pt")[1]
        assert recipe["pretraining_volumes"] == pretrained["volumes"] and len(recipe["training_volumes"]) == 4
        assert sorted(p.name for p in (run / "models").iterdir()) == ["model.json", "model.pt", "pretrained"]

    def test_evaluation_scores_exactly_the_held_out_cases_on_their_own_grid(self, run: Path, data: Path) -> None:
        held_out = split_cases([f"spleen_{i}" for i in range(1, 7)], 0).validation
        found = rows(run / "evaluate" / "evaluation_cases.csv")
        assert sorted(r["case"] for r in found) == sorted(held_out)
        assert {r["figures"] for r in found} == {"validation"}
        for row in found:
            label = nib.load(data / "Task09_Spleen" / "labelsTr" / f"{row['case']}.nii.gz")
            mask = nib.load(run / "evaluate" / "masks" / f"{row['case']}_seg.nii.gz")
            assert int(row["label_voxels"]) == int((label.get_fdata() == 1).sum())
            assert mask.shape == label.shape and np.allclose(mask.affine, label.affine, atol=1e-4)
            truth, pred = label.get_fdata() == 1, mask.get_fdata() == 1
            dice = 2 * (truth & pred).sum() / max(1, truth.sum() + pred.sum())
            assert float(row["dice"]) == pytest.approx(dice, abs=1e-5)
        assert rows(run / "evaluate" / "evaluation_summary.csv")[0]["class"] == "spleen"

    def test_inference_writes_masks_on_the_input_grid(self, run: Path, data: Path) -> None:
        (image,) = (data / "Task09_Spleen" / "imagesTs").glob("*.nii.gz")
        mask = nib.load(run / "inference" / f"{image.name[:-7]}_seg.nii.gz")
        assert mask.shape == nib.load(image).shape
        assert np.allclose(mask.affine, nib.load(image).affine, atol=1e-4)
        assert mask.get_data_dtype() == np.uint8 and set(np.unique(mask.get_fdata())) <= {0.0, 1.0}

    def test_evaluating_what_pretraining_saw_is_refused_across_commands(
        self, run: Path, data: Path, step: Callable
    ) -> None:
        common = {"dataset_dir": data / "Task09_Spleen", "ckpt_dir": run / "models", "output_dir": run / "leak"}
        refused = step("evaluate", **common, fold=1)
        assert refused.returncode != 0
        assert "error: 1 held-out volume(s) cannot be evaluated on" in refused.stderr
        assert not (run / "leak" / "evaluation_cases.csv").exists()

    def test_the_overview_shows_the_whole_run(self, run: Path, data: Path) -> None:
        command = [sys.executable, "-m", "hybridmim_components", "overview", str(run)]
        command += ["--dataset_dir", str(data / "Task09_Spleen")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=run)
        assert (run / "overview.png").stat().st_size > 20_000
        for text in ("partial_region", "fine-tuning", "spleen (validation)", "masks of new images"):
            assert text in done.stdout


@pytest.mark.parametrize("name", WORKFLOWS)
def test_required_properties_are_there(name: str, data: Path, tmp_path: Path) -> None:
    kind, files, overrides = WORKFLOWS[name]
    places = {"dataset_dir": str(data / "Task09_Spleen"), "output_dir": str(tmp_path), "bundle_root": str(BUNDLE)}
    places["ckpt_dir"] = str(tmp_path / "models")
    workflow = ConfigWorkflow(config_files(files), workflow_type=kind, logging_file=False, **overrides, **places)
    if name in ("evaluate", "inference"):
        network = workflow.parser.get_parsed_content("network_def")
        save_weights(tmp_path / "models" / "model.pt", network, {}, bare=True)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_network_agrees_with_the_metadata() -> None:
    overrides = {"network_def#features": [4, 4, 4, 8, 8, 4]}
    verify_net_in_out(
        "network_def",
        str(BUNDLE / "configs" / "metadata.json"),
        config_files(["inference"]),
        device="cpu",
        **overrides,
    )


def test_metadata_names_what_the_model_zoo_wants() -> None:
    meta = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    wanted = "schema version changelog monai_version pytorch_version numpy_version required_packages_version name task"
    wanted += " description authors copyright data_source data_type image_classes label_classes pred_classes"
    wanted += " eval_metrics intended_use references network_data_format"
    assert set(wanted.split()) <= set(meta)
    assert meta["version"] in meta["changelog"] and meta["eval_metrics"] == {}
    lock = dict(
        line.split("==") for line in (BUNDLE.parents[1] / "requirements.lock").read_text().splitlines() if "==" in line
    )
    assert (meta["monai_version"], meta["pytorch_version"]) == (lock["monai"], lock["torch"])
    assert meta["numpy_version"] == lock["numpy"]
    assert {n: lock[n] for n in meta["required_packages_version"]} == meta["required_packages_version"]


def test_shared_knobs_have_one_name_and_one_default() -> None:
    configs = {
        n: json.loads((BUNDLE / "configs" / f"{n}.json").read_text()) for n in ("pretrain", "train", "inference")
    }
    for name in ("spacing", "intensity_range", "roi_size", "network_def", "dataset_dir", "ckpt_dir", "device", "amp"):
        values = [c[name] for c in configs.values()]
        assert all(v == values[0] for v in values), name
    for name in ("seed", "fold", "split_seed", "batch_size", "crops_per_volume", "num_workers", "cache", "dataset"):
        assert configs["pretrain"][name] == configs["train"][name], name
    wanted = "bundle_root dataset_dir output_dir device amp seed epochs batch_size num_workers cache val_interval"
    wanted += " learning_rate roi_size fold pretrained"
    assert set(wanted.split()) <= set(configs["pretrain"]) & set(configs["train"])
    assert "label_fraction" in configs["train"]


def test_inference_uses_stock_components_only() -> None:
    text = (BUNDLE / "configs" / "inference.json").read_text()
    assert "hybridmim" not in text
    transforms = [t["_target_"] for t in json.loads(text)["preprocessing"]["transforms"]]
    # MONAI 1.6.1's Spacingd breaks on MONAI Label's image_path, so the path is put aside while it runs
    at = transforms.index("Spacingd")
    assert transforms[at - 2 : at + 2] == ["CopyItemsd", "DeleteItemsd", "Spacingd", "CopyItemsd"]


def test_inference_preprocessing_passes_monai_labels_path_through(data: Path) -> None:
    parser = ConfigParser(json.loads((BUNDLE / "configs" / "inference.json").read_text()))
    (image,) = (data / "Task09_Spleen" / "imagesTs").glob("*.nii.gz")
    for item in ({"image": str(image), "image_path": str(image)}, {"image": str(image)}):
        result = parser.get_parsed_content("preprocessing")(dict(item))
        assert result.get("image_path") == item.get("image_path")


@pytest.mark.slow
def test_pretraining_needs_no_labelled_data_and_keeps_a_run_shorter_than_its_interval(
    data: Path, tmp_path: Path, step: Callable
) -> None:
    places = {"dataset_dir": "", "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "out"}
    data_args = {"unlabelled_dirs": [str(data / "unlabelled"), str(data / "Task09_Spleen" / "imagesTs")]}
    done = step("pretrain", **places, **data_args, epochs=1, val_interval=10)
    assert done.returncode == 0, done.stderr
    assert len(read_weights(tmp_path / "models" / "pretrained" / "model.pt")[1]["volumes"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("training", "validation"), [(3, 1), (3, 0), (1, 0)])
def test_training_runs_as_monai_label_drives_it(data: Path, tmp_path: Path, training: int, validation: int) -> None:
    """Lists of image and label in place of ours, no dataset_dir, and the number of epochs set on the trainer."""
    root = data / "Task09_Spleen"
    items = [{k: str(root / f"{k}sTr" / f"spleen_{i}.nii.gz") for k in ("image", "label")} for i in range(1, 5)]
    given = {
        "bundle_root": str(tmp_path),
        "train#trainer#max_epochs": 2,
        "train#dataset#data": items[:training],
        "validate#dataset#data": items[training : training + validation],
    }
    small = {k: v for k, v in TRAIN.items() if k != "epochs"}
    workflow = ConfigWorkflow(config_files(["train"]), workflow_type="train", logging_file=False, **small, **given)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert workflow.trainer.state.epoch == 2
    # the schedule follows the trainer's epochs: it has come down at the end
    assert workflow.parser.get_parsed_content("optimizer").param_groups[0]["lr"] == pytest.approx(0)
    assert set(torch.load(tmp_path / "models" / "model.pt", weights_only=True)) == set(
        workflow.network_def.state_dict()
    )
    assert len(read_weights(tmp_path / "models" / "model.pt")[1]["training_volumes"]) == training


ERRORS = {
    "unknown override": ({"learning_rat": 1}, "error: unknown setting: learning_rat (did you mean learning_rate?)"),
    "missing dataset_dir": ({"dataset_dir": "/nowhere"}, "error: dataset_dir must be an existing folder, got /nowhere"),
    "grid": ({"patch_size": [7, 7, 7]}, "error: patch_size must divide subvolume_size on every axis"),
    "ratio": ({"mask_ratio": 1.5}, "error: mask_ratio must be in (0, 1), got 1.5"),
    "negatives": ({"batch_size": 1}, "error: the contrastive loss needs crops of at least 2 volumes in a batch"),
    "weights": ({"pretrained": "nowhere.pt"}, "error: no weights at nowhere.pt or"),
    "fold": ({"fold": 7}, "error: fold must be 'all' or one of 0..4, got 7"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ERRORS)
def test_what_cannot_run_ends_at_once_with_one_line(fault: str, data: Path, tmp_path: Path, step: Callable) -> None:
    overrides, message = ERRORS[fault]
    places = {"dataset_dir": data / "Task09_Spleen", "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "out"}
    done = step("pretrain", **{**places, **overrides})
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_an_unreadable_case_is_named_before_training(data: Path, tmp_path: Path, step: Callable) -> None:
    shutil.copytree(data / "Task09_Spleen", tmp_path / "data")
    broken = tmp_path / "data" / "imagesTr" / "spleen_3.nii.gz"
    os.truncate(broken, broken.stat().st_size // 2)
    places = {"dataset_dir": tmp_path / "data", "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "out"}
    done = step("train", **places)
    assert done.returncode != 0
    assert "error: 1 of 6 volume(s) cannot be used:" in done.stderr and str(broken) in done.stderr
    assert not (tmp_path / "models").exists()
