# SPDX-License-Identifier: Apache-2.0

"""What the configs and metadata of every bundle must hold, and that they differ only where they have to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.scripts import verify_net_in_out
from render_bundles import SOURCE, read_performance

from hybridmim_components.data import DATASETS
from hybridmim_components.weights import save_weights

ROOT = Path(__file__).parents[2]
STEPS = ("pretrain", "train", "evaluate", "inference")
LATER = ("_checks_", "_network_", "_engines_")


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_required_properties_are_there(bundle, step: str, phantoms: Callable, tmp_path: Path) -> None:
    data = phantoms(bundle.dataset)
    places = {"dataset_dir": data.dataset_dir, "output_dir": tmp_path, "bundle_root": bundle.path, "ckpt_dir": tmp_path}
    overrides = bundle.small(step) | {name: str(path) for name, path in places.items()}
    if step == "inference":
        overrides["image_dir"] = str(data.image_dir)
    kind = "infer" if step == "inference" else "train"
    workflow = ConfigWorkflow(bundle.config_files(step), workflow_type=kind, logging_file=False, **overrides)
    if step in ("evaluate", "inference"):
        save_weights(tmp_path / "model.pt", workflow.parser.get_parsed_content("network_def"), {}, bare=True)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_network_agrees_with_the_metadata(bundle) -> None:
    network = {k: v for k, v in bundle.small("inference").items() if k.startswith("network_def")}
    metadata = str(bundle.path / "configs" / "metadata.json")
    verify_net_in_out("network_def", metadata, bundle.config_files("inference"), device="cpu", **network)


def test_metadata_names_what_the_model_zoo_wants(bundle) -> None:
    meta = bundle.config("metadata")
    wanted = "schema version changelog monai_version pytorch_version numpy_version required_packages_version name task"
    wanted += " description authors copyright data_source data_type image_classes label_classes pred_classes"
    wanted += " eval_metrics intended_use references network_data_format"
    assert set(wanted.split()) <= set(meta)
    assert meta["version"] in meta["changelog"]
    assert meta["eval_metrics"] == read_performance(SOURCE, bundle.name).get("eval_metrics", {})
    lock = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    assert (meta["monai_version"], meta["pytorch_version"]) == (lock["monai"], lock["torch"])
    assert meta["numpy_version"] == lock["numpy"]
    assert {n: lock[n] for n in meta["required_packages_version"]} == meta["required_packages_version"]


def test_metadata_label_values_are_those_that_the_checks_expect(bundle) -> None:
    channels = bundle.config("metadata")["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert {int(value): name for value, name in channels.items()} == DATASETS[bundle.dataset].label_names
    train = ConfigParser(bundle.config("train"))
    assert list(train.get_parsed_content("rules").label_values) == sorted(DATASETS[bundle.dataset].label_names)


def test_shared_knobs_have_one_name_and_one_default(bundle) -> None:
    configs = {name: bundle.config(name) for name in ("pretrain", "train", "inference")}
    shared = ["spacing", "roi_size", "network_def", "dataset_dir", "ckpt_dir", "device", "amp"]
    shared.append(
        {"brats2020": "modalities", "msd_hippocampus": "clip_percentiles"}.get(bundle.dataset, "intensity_range")
    )
    for name in shared:
        values = [c[name] for c in configs.values()]
        assert all(v == values[0] for v in values), name
    for name in (
        "seed",
        "fold",
        "split_seed",
        "crops_per_volume",
        "steps_per_epoch",
        "num_workers",
        "cache",
        "dataset",
    ):
        assert configs["pretrain"][name] == configs["train"][name], name
    wanted = "bundle_root dataset_dir output_dir device amp seed epochs steps_per_epoch batch_size num_workers cache"
    wanted += " val_interval learning_rate roi_size fold pretrained"
    assert set(wanted.split()) <= set(configs["pretrain"]) & set(configs["train"])
    assert "label_fraction" in configs["train"]


def test_every_knob_is_described(bundle) -> None:
    readme = (bundle.path / "docs" / "README.md").read_text()
    own = {"dataset", "network_def", "network"}
    for name in ("pretrain", "train", "inference"):
        knobs = [k for k, v in bundle.config(name).items() if not isinstance(v, (dict, list)) or k.endswith("_size")]
        knobs = [knob for knob in knobs if not knob.startswith("_")]  # the names of groups
        for knob in set(knobs) - own - {"pretraining_recipe"}:
            assert f"`{knob}`" in readme, f"{knob} of {name}"


@pytest.mark.parametrize("name", ["pretrain", "train"])
def test_knobs_stand_in_groups_before_what_is_made_of_them(bundle, name: str) -> None:
    config = bundle.config(name)
    groups = [key for key in config if key.startswith("_")]
    assert groups == ["_data_", "_method_" if name == "pretrain" else "_weights_", "_schedule_", "_run_", *LATER]
    first, *later = (list(config).index(group) for group in groups[3:])
    components = [i for i, value in enumerate(config.values()) if isinstance(value, dict)]
    assert first < later[0] < min(components), "a knob is no component"


@pytest.mark.parametrize("name", ["pretrain", "train"])
def test_the_recipe_tells_what_a_run_started_from(bundle, name: str) -> None:
    """A run that starts from other weights must not resume, and one that overwrites its start weights must."""
    config = bundle.config(name)
    assert config["pretrained_report"]["output"] == config["best_weights"]["path"]
    assert config["recipe"]["pretrained"] == "$@pretrained_report.digest if @pretrained else None"
    settings = {"pretrain": {"split_seed", "val_fraction"}, "train": {"split_seed", "restore_scale"}}[name]
    assert {"unknown_volumes", *settings} <= config["recipe"].keys()


def test_inference_uses_stock_components_only(bundle) -> None:
    config = bundle.config("inference")
    assert "hybridmim" not in json.dumps(config)
    transforms = [t["_target_"] for t in config["preprocessing"]["transforms"]]
    # MONAI 1.6.1's Spacingd breaks on MONAI Label's image_path, so the path is put aside while it runs
    at = transforms.index("Spacingd")
    assert transforms[at - 2 : at + 2] == ["CopyItemsd", "DeleteItemsd", "Spacingd", "CopyItemsd"]


def test_inference_preprocessing_passes_monai_labels_path_through(spleen, phantoms: Callable) -> None:
    parser = ConfigParser(spleen.config("inference"))
    (image,) = phantoms("msd_spleen").image_dir.glob("*.nii.gz")
    for item in ({"image": str(image), "image_path": str(image)}, {"image": str(image)}):
        result = parser.get_parsed_content("preprocessing")(dict(item))
        assert result.get("image_path") == item.get("image_path")


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of a config by the names that lead to it; a list of components counts as a whole."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{path}#{key}" if path else key)
    else:
        yield path, value


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    left, right = dict(flat(one)), dict(flat(other))
    return {path for path in left.keys() | right.keys() if left.get(path) != right.get(path)}


BY_BACKBONE = {
    "network_def",
    "learning_rate",
    "weight_decay",
    "batch_size",
    "validate",
    "inferer",
    "name",
    "description",
}
BY_DATASET = {
    "pretrain": {"dataset", "dataset_dir", "epochs", "cache", "intensity_range", "num_classes", "fold"},
    "train": {
        *("dataset", "dataset_dir", "epochs", "cache", "intensity_range", "num_classes", "fold"),
        "train#random_transforms",
        "crop_counts#image_key",
        "crop_counts#num_classes",
        "validate#postprocessing#transforms",
        "validate#key_metric#val_mean_dice#include_background",
    },
    "evaluate": {"class_names", "validate#postprocessing#transforms", "validate#handlers"},
    "inference": {"dataset_dir", "image_dir", "intensity_range", "num_classes"},
}


@pytest.mark.parametrize(
    "step",
    [
        *STEPS,
        "multi_gpu_pretrain",
        "multi_gpu_train",
        "multi_gpu_evaluate",
        "checked_inference",
        "frugal_inference",
        "metadata",
    ],
)
@pytest.mark.parametrize(
    "name",
    ["brats2020_swinunetr", "btcv_swinunetr", "msd_liver_swinunetr", "msd_spleen_dynunet", "msd_spleen_swinunetr"],
)
def test_two_bundles_of_a_dataset_differ_by_the_backbone_alone(spleen, step: str, name: str) -> None:
    dataset = name.rpartition("_")[0]
    one, other = (type(spleen)(name_).config(step) for name_ in (f"{dataset}_unet", name))
    found = differences(one, other)
    assert {path.split("#")[0] for path in found} <= BY_BACKBONE
    assert {path for path in found if "#" in path and not path.startswith("network_def")} <= {
        "validate#inferer#sw_batch_size",
        "inferer#sw_batch_size",
    }


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("backbone", ["unet", "swinunetr"])
def test_two_ct_bundles_of_a_backbone_differ_by_the_dataset_alone(spleen, step: str, backbone: str) -> None:
    for one, other in combinations(("btcv", "msd_liver", "msd_spleen"), 2):
        configs = [type(spleen)(f"{dataset}_{backbone}").config(step) for dataset in (one, other)]
        assert differences(*configs) <= BY_DATASET[step]


def transforms_of(items: list[dict[str, Any]], **references: Any) -> list[Any]:
    return ConfigParser({"imports": ["$import torch"], "t": items, **references}).get_parsed_content("t")


def test_brats_regions_become_the_labels_of_the_release(brats) -> None:
    steps = brats.config("inference")["postprocessing"]["transforms"]
    decode = transforms_of([t for t in steps if t["_target_"] in ("Activationsd", "AsDiscreted", "Lambdad")])
    # each voxel: TC, WT, ET; enhancing tumour counts although WT or TC should deny it
    regions = {(0, 0, 0): 0, (0, 1, 0): 2, (1, 1, 0): 1, (1, 1, 1): 4, (0, 0, 1): 4, (1, 0, 0): 1}
    logits = torch.tensor(list(regions), dtype=torch.float32).T.reshape(3, -1, 1, 1) * 8 - 4
    item = {"pred": logits}
    for transform in decode:
        item = transform(item)
    assert item["pred"].flatten().tolist() == list(regions.values())
    assert item["pred"].shape == (1, len(regions), 1, 1)


def test_liver_is_scored_with_its_tumours_and_tumours_alone(spleen) -> None:
    bundle = type(spleen)("msd_liver_unet")
    (score,) = transforms_of(bundle.config("evaluate")["validate#postprocessing#transforms"][-1:])
    labels = torch.tensor([0.0, 1.0, 2.0]).reshape(1, 3, 1, 1)
    scored = score({"pred": labels, "label": labels})
    assert scored["pred"].flatten(1).tolist() == scored["label"].flatten(1).tolist() == [[0, 1, 1], [0, 0, 1]]


def brain_lists(brats, image_dir: Path) -> list[Any]:
    parser = ConfigParser({**brats.config("inference"), "image_dir": str(image_dir)})
    return [
        [Path(p).name for p in i["image"]] if isinstance(i["image"], list) else Path(i["image"]).name
        for i in parser.get_parsed_content("dataset#data")
    ]


def test_brains_are_found_by_patient_folder_flat_or_in_one_file(brats, tmp_path: Path) -> None:
    names = [f"p[1]_{m}.nii" for m in ("flair", "t1", "t1ce", "t2")]
    for folder in ("all[x]/p[1]", "flat"):
        (tmp_path / folder).mkdir(parents=True)
        for name in (*names, "p[1]_seg.nii"):
            (tmp_path / folder / name).touch()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "p1.nii.gz").touch()
    for image_dir in ("all[x]", "all[x]/p[1]", "flat"):
        assert brain_lists(brats, tmp_path / image_dir) == [names]
    assert brain_lists(brats, tmp_path / "whole") == ["p1.nii.gz"]


def test_inference_on_nothing_says_so(bundle, tmp_path: Path) -> None:
    config = bundle.config("inference")
    parser = ConfigParser({**config, "image_dir": str(tmp_path)})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("run#0")
    assert f"there is none in {tmp_path}" in str(caught.value.__cause__)
