# SPDX-License-Identifier: Apache-2.0

"""Every bundle as its users run it: the commands of its README, on phantoms, from another working directory."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from preloaded import run_module

from hybridmim_components.data import finetuning_lists
from hybridmim_components.phantoms import write_phantoms
from hybridmim_components.weights import load_pretrained, read_weights

pytestmark = pytest.mark.slow
OUTPUT_LAYERS = {"dynunet": "output_block", "unet": "final_conv", "swinunetr": "out"}


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def regions(dataset: str, labels: np.ndarray) -> list[np.ndarray]:
    """What is scored, from a map of labels, written out once more by hand."""
    if dataset == "brats2020":
        return [np.isin(labels, [1, 4]), np.isin(labels, [1, 2, 4]), labels == 4]
    if dataset == "msd_liver":
        return [labels > 0, labels == 2]
    return [labels == value for value in range(1, {"btcv": 14, "msd_hippocampus": 3, "msd_spleen": 2}[dataset])]


def test_pretraining_leaves_weights_curves_previews_and_a_checkpoint(bundle, run: Callable) -> None:
    out = run(bundle)
    weights = out.parent / "models" / "pretrained" / "model.pt"
    parser = ConfigParser(bundle.config("train"))
    parser.update(bundle.small("train"))
    assert load_pretrained(parser.get_parsed_content("network_def"), weights).share == 1
    recipe = read_weights(weights)[1]
    assert recipe["spacing"] == bundle.small("train")["spacing"] and recipe["dataset"] == bundle.dataset
    channels = 4 if bundle.dataset == "brats2020" else 1
    held_out = 1 if bundle.dataset == "btcv" else 2
    # 6 cases less those held out, and 2 unlabelled ones
    assert len(recipe["volumes"]) == (8 - held_out) * channels
    curve = rows(out / "pretrain" / "training.csv")
    assert [r["epoch"] for r in curve] == ["1", "2"]
    assert [int(r["iteration"]) for r in curve] == [2, 4] and recipe["planned_steps"] == 4
    for term in ("partial_region", "number", "location", "contrast"):
        assert all(float(r[term]) > 0 and 0.2 < float(r[f"{term}_share"]) < 5 for r in curve), term
    # masks are seen on any tissue, air included
    assert {float(r["unchanged"]) for r in curve} == {0}
    assert len(list((out / "pretrain" / "previews").glob("*.png"))) == 2
    validation = rows(out / "pretrain" / "validation.csv")
    assert [r["epoch"] for r in validation] == ["1", "2"]
    for row in validation:
        assert all(0.2 < float(row[f"val_{name}_share"]) < 5 for name in ("masked_error", "number", "location"))
        accuracies = [float(row[f"val_{name}"]) for name in ("number_accuracy", "number_within_one")]
        assert 0 <= accuracies[0] <= accuracies[1] <= 1 and 0 < float(row["val_location_accuracy"]) < 1
    last = read_weights(weights.with_name("last.pt"))[1]
    assert last["last"] == {"epoch": 2} and last["volumes"] == recipe["volumes"] and "best" not in last
    assert list((out / "pretrain" / "tensorboard").iterdir())
    checkpoints = list((out / "pretrain" / "checkpoints").iterdir())
    assert 1 <= len(checkpoints) <= 2
    content = torch.load(max(checkpoints), weights_only=True)
    assert content["finished"] and set(content["state"]) == {"network", "optimizer", "lr_scheduler", "best_weights"}


def test_finetuning_starts_from_them_and_leaves_a_bare_state_dict(bundle, run: Callable) -> None:
    out = run(bundle)
    log = (out / "train.log").read_text()
    assert "Loaded pre-trained weights" in log and "100.0% of the values outside the output layer" in log
    assert "recipe differs" not in log
    state, recipe = read_weights(out.parent / "models" / "model.pt")
    assert any(name.startswith(OUTPUT_LAYERS[bundle.backbone]) for name in state)
    assert re.fullmatch("[0-9a-f]{16}", recipe["pretrained"]) and not recipe["unknown_volumes"]
    seen = read_weights(out.parent / "models" / "pretrained" / "model.pt")[1]["volumes"]
    assert set(recipe["pretraining_volumes"]) == set(seen) - set(recipe["training_volumes"])
    assert sorted(p.name for p in (out.parent / "models").glob("[!.]*")) == ["model.json", "model.pt", "pretrained"]


def test_evaluation_scores_exactly_the_held_out_cases_on_their_own_grid(
    bundle, run: Callable, phantoms: Callable
) -> None:
    out, data = run(bundle), phantoms(bundle.dataset)
    fold = bundle.config("train")["fold"]
    held_out = {c["case_id"]: c for c in finetuning_lists(bundle.dataset, str(data.dataset_dir), fold)["validation"]}
    names = bundle.config("evaluate")["class_names"]
    found = rows(out / "evaluate" / "evaluation_cases.csv")
    assert [(r["case"], r["class"]) for r in found] == [(c, n) for c in held_out for n in names]
    assert {r["figures"] for r in found} == {"validation"}
    for case_id, case in held_out.items():
        label = nib.load(case["label"])
        mask = nib.load(out / "evaluate" / "masks" / f"{case_id}_seg.nii.gz")
        assert mask.shape == label.shape and np.allclose(mask.affine, label.affine, atol=1e-4)
        truths, preds = (regions(bundle.dataset, volume.get_fdata()) for volume in (label, mask))
        scores = [r for r in found if r["case"] == case_id]
        for truth, pred, score in zip(truths, preds, scores, strict=True):
            assert int(score["label_voxels"]) == truth.sum() and int(score["pred_voxels"]) == pred.sum()
            both = truth.sum() + pred.sum()
            assert float(score["dice"]) == pytest.approx(2 * (truth & pred).sum() / both if both else 1, abs=1e-5)


def test_inference_writes_masks_on_the_input_grid_with_the_labels_of_the_metadata(
    bundle, run: Callable, phantoms: Callable
) -> None:
    out, data = run(bundle), phantoms(bundle.dataset)
    (mask_file,) = (out / "inference").glob("*.nii.gz")
    images = sorted(data.image_dir.rglob("*.nii.gz"))
    name = data.image_dir.name if bundle.dataset != "brats2020" else images[0].parent.name
    assert mask_file.name == f"{name if bundle.dataset == 'brats2020' else images[0].name[:-7]}_seg.nii.gz"
    mask, image = nib.load(mask_file), nib.load(images[0])
    assert mask.shape == image.shape and np.allclose(mask.affine, image.affine, atol=1e-4)
    labels = bundle.config("metadata")["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert mask.get_data_dtype() == np.uint8 and set(np.unique(mask.get_fdata())) <= {float(v) for v in labels}


def test_evaluating_what_pretraining_saw_is_refused_across_commands(
    spleen, run: Callable, phantoms: Callable, step: Callable
) -> None:
    out, data = run(spleen), phantoms("msd_spleen")
    places = {"dataset_dir": data.dataset_dir, "ckpt_dir": out.parent / "models", "output_dir": out / "leak"}
    refused = step(spleen, "evaluate", **places, fold=1)
    assert refused.returncode != 0
    assert "error: 1 held-out volume(s) cannot be evaluated on" in refused.stderr
    assert not (out / "leak" / "evaluation_cases.csv").exists()


def test_a_separate_test_set_is_unseen_and_copies_of_other_cases_are_told(
    spleen, run: Callable, phantoms: Callable, step: Callable, tmp_path: Path
) -> None:
    out, data = run(spleen), phantoms("msd_spleen").dataset_dir
    grid = {"size": (40, 40, 32), "spacing": (7.0, 7.0, 8.0)}
    test = write_phantoms("msd_spleen", tmp_path, 2, 1, 1, seed=9, **grid).dataset_dir
    held_out = finetuning_lists("msd_spleen", str(data), 0)
    for kind in ("image", "label"):
        shutil.copy(held_out["validation"][0][kind], test / f"{kind}sTr" / "spleen_8.nii.gz")
    models = {"ckpt_dir": out.parent / "models"}
    folders: dict[str, dict[str, object]] = {
        "test_dir": {"dataset_dir": "/nowhere", "test_dir": test, "fold": ["spleen_1"]},
        "fold": {"dataset_dir": test, "fold": "all"},
    }
    for name, places in folders.items():
        done = step(spleen, "evaluate", **models, **places, output_dir=tmp_path / name, report=tmp_path / name)
        assert done.returncode == 0, done.stderr
        found = rows(tmp_path / name / "evaluation_cases.csv")
        expected = [("spleen_1", "unseen"), ("spleen_2", "unseen"), ("spleen_8", "validation")]
        assert sorted((r["case"], r["figures"]) for r in found) == expected
        summary = rows(tmp_path / name / "evaluation_summary.csv")
        assert [(r["figures"], r["cases"]) for r in summary[::2]] == [("unseen", "2"), ("validation", "1")]
        assert "The weights have not seen these cases" in (tmp_path / name / "report.html").read_text(encoding="utf-8")
    for kind in ("image", "label"):
        shutil.copy(held_out["training"][0][kind], test / f"{kind}sTr" / "spleen_9.nii.gz")
    leak = {"test_dir": test, "output_dir": tmp_path / "leak"}
    refused = step(spleen, "evaluate", **models, **leak)
    assert refused.returncode != 0 and "spleen_9.nii.gz" in refused.stderr and "Traceback" not in refused.stderr
    done = step(spleen, "evaluate", **models, **leak, allow_seen=True)
    assert done.returncode == 0, done.stderr
    found = {r["case"]: r["figures"] for r in rows(tmp_path / "leak" / "evaluation_cases.csv")}
    assert found["spleen_9"] == "training" and found["spleen_1"] == "unseen"


def test_the_overview_shows_the_whole_run(bundle, run: Callable, phantoms: Callable) -> None:
    out, data = run(bundle), phantoms(bundle.dataset)
    arguments = ["overview", str(out), "--dataset", bundle.dataset, "--dataset_dir", str(data.dataset_dir)]
    done = run_module("hybridmim_components", arguments, out)
    assert done.returncode == 0, done.stderr
    assert (out / "overview.png").stat().st_size > 20_000
    names = bundle.config("evaluate")["class_names"]
    for text in ("partial_region", "fine-tuning", f"{names[0]} (validation)", "masks of new images"):
        assert text in done.stdout


def test_the_report_has_the_volumes_of_every_evaluated_case(bundle, run: Callable) -> None:
    out = run(bundle)
    done = run_module("hybridmim_components", ["report", str(out)], out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out / "report.html") and done.stderr == ""
    page = (out / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="viewer-data">')[2].partition("</script>")[0])
    cases = {row["case"] for row in rows(out / "evaluate" / "evaluation_cases.csv")}
    assert {case["name"] for case in data["cases"]} == cases
    channels = 4 if bundle.dataset == "brats2020" else 1
    assert all(len(case["data"]["images"]) == channels for case in data["cases"])
    assert (len(data["cases"][0]["data"]["windows"][0]) == 4) == (
        bundle.dataset not in ("brats2020", "msd_hippocampus")
    )
    assert page.count("recipe of the weights</summary>") == 2 and page.count('<td class="text">finished</td>') == 3


def test_weights_of_ct_start_a_network_for_four_modalities(
    spleen, brats, run: Callable, phantoms: Callable, step: Callable, tmp_path: Path
) -> None:
    weights = run(spleen).parent / "models" / "pretrained" / "model.pt"
    places = {"dataset_dir": phantoms("brats2020").dataset_dir, "ckpt_dir": tmp_path, "output_dir": tmp_path / "out"}
    done = step(brats, "train", **places, pretrained=weights, epochs=1)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert "1 adapted" in log and "adapted: conv_0.conv_0.conv.weight" in log and "0 missing" in log


@pytest.mark.parametrize("names", [["flair", "t1ce"], ["t1ce"]])
def test_a_subset_of_the_modalities_sets_the_channels(
    brats, names: list[str], phantoms: Callable, step: Callable, tmp_path: Path
) -> None:
    data = phantoms("brats2020")
    places = {"dataset_dir": data.dataset_dir, "ckpt_dir": tmp_path / "models", "modalities": names}
    pretrained = {"pretrained": tmp_path / "models" / "pretrained" / "model.pt"}
    for name, extra in {
        "pretrain": {"unlabelled_dirs": data.unlabelled_dir, "epochs": 1},
        "train": {**pretrained, "epochs": 1},
        "evaluate": {},
        "inference": {"image_dir": data.image_dir},
    }.items():
        done = step(brats, name, **places, **extra, output_dir=tmp_path / name)
        assert done.returncode == 0, f"{name}\n{done.stdout}\n{done.stderr}"
    assert read_weights(tmp_path / "models" / "model.pt")[0]["conv_0.conv_0.conv.weight"].shape[1] == len(names)
    assert [p.name for p in (tmp_path / "inference").iterdir()] == ["BraTS20_Validation_001_seg.nii.gz"]
