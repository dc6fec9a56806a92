# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.networks.nets import BasicUNet, SwinUNETR
from torch import nn

from hybridmim_components.data import VolumeRules, fingerprint, read_volume
from hybridmim_components.weights import save_weights
from hybridmim_components.workflow.preflight import check_evaluation, check_pretraining, check_training


def volume(folder: Path, name: str, seed: int, low: int = -1000, high: int = 1000) -> str:
    voxels = np.random.default_rng(seed).integers(low, high, (6, 5, 4)).astype(np.int16)
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / name)
    return str(folder / name)


def case(tmp_path: Path, number: int, seed: int) -> dict[str, str]:
    name = f"spleen_{number}.nii.gz"
    return {
        "case_id": f"spleen_{number}",
        "image": volume(tmp_path / "imagesTr", name, seed),
        "label": volume(tmp_path / "labelsTr", name, 1000 + seed, 0, 2),
    }


@pytest.fixture
def lists(tmp_path: Path) -> dict[str, list[dict[str, str]]]:
    paths = [volume(tmp_path / "in", f"{i}.nii.gz", i) for i in range(6)]
    parts = {"training": paths[:4], "validation": paths[4:5], "held_out": paths[5:]}
    return {part: [{"image": p} for p in names] for part, names in parts.items()}


NETWORK = {"network": BasicUNet(features=(4, 4, 4, 4, 4, 4)), "roi_size": (32, 32, 32)}
NETWORK["rules"] = VolumeRules(label_values=(0, 1))
RUN = {"batch_size": 4, "crops_per_volume": 2, "contrast_weight": 0.1}


def test_recipe_lists_what_training_and_validation_see_and_no_names(tmp_path: Path, lists: dict) -> None:
    seen = check_pretraining(lists, tmp_path / "out", **RUN)["fingerprints"]
    expected = {fingerprint(read_volume(i["image"])) for part in ("training", "validation") for i in lists[part]}
    assert set(seen) == expected and len(seen) == 5
    assert all(len(s) == 64 and set(s) <= set("0123456789abcdef") for s in seen)


def test_a_renamed_copy_of_a_held_out_case_stops_pretraining(tmp_path: Path, lists: dict) -> None:
    lists["training"].append({"image": volume(tmp_path / "in", "other_name.nii", 5)})
    with pytest.raises(
        ValueError,
        match=r"1 held-out volume.* is among the volumes of pre-training: .*5.nii.gz .its name there: .*other_name.nii",
    ):
        check_pretraining(lists, tmp_path / "out", **RUN)
    assert check_pretraining(lists, tmp_path / "out", allow_seen=True, **RUN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 3}, "must be a positive multiple of crops_per_volume, got 3 and 2"),
        ({"batch_size": 2}, "at least 2 volumes in a batch, got batch_size 2 with crops_per_volume 2"),
        ({"batch_size": 1, "crops_per_volume": 1}, "at least 2 volumes in a batch, got batch_size 1"),
        ({"batch_size": 1, "crops_per_volume": 1, "same_volume_negatives": True}, "at least 2 volumes in a batch"),
        ({"batch_size": 10}, "a batch of 10 crops needs 5 training volumes for each of 1 process.es., got 4"),
    ],
)
def test_batches_that_cannot_work_are_refused(tmp_path: Path, lists: dict, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_pretraining(lists, tmp_path / "out", **{**RUN, **settings})


@pytest.mark.parametrize("settings", [{"contrast_weight": 0}, {"same_volume_negatives": True}])
def test_one_volume_per_batch_is_allowed_on_request(tmp_path: Path, lists: dict, settings: dict) -> None:
    assert check_pretraining(lists, tmp_path / "out", **{**RUN, "batch_size": 2, **settings})


def training_arguments(tmp_path: Path, recipe: dict | None) -> dict:
    cases = [case(tmp_path, i, i) for i in range(3)]
    return {
        "training": cases[:2],
        "validation": cases[2:],
        "output_dir": tmp_path / "out",
        "batch_size": 4,
        "crops_per_volume": 2,
        "pretraining_recipe": recipe,
        **NETWORK,
    }


def test_training_refuses_to_validate_on_what_pretraining_saw(tmp_path: Path) -> None:
    copy = volume(tmp_path / "elsewhere", "copy.nii", 2)
    arguments = training_arguments(tmp_path, {"volumes": [fingerprint(read_volume(copy))]})
    with pytest.raises(ValueError, match="was seen by pre-training: .*spleen_2.nii.gz"):
        check_training(**arguments)
    volumes = check_training(**arguments, allow_seen=True)
    assert volumes["pretraining_volumes"] == arguments["pretraining_recipe"]["volumes"]


def test_training_on_what_pretraining_saw_is_normal(tmp_path: Path) -> None:
    arguments = training_arguments(tmp_path, {})
    seen = [fingerprint(read_volume(i["image"])) for i in arguments["training"]]
    volumes = check_training(**{**arguments, "pretraining_recipe": {"volumes": seen}})
    assert volumes["training_volumes"] == sorted(seen) and volumes["pretraining_volumes"] == []
    # a run that writes to the file that it started from finds the same volumes when it is resumed
    assert check_training(**{**arguments, "pretraining_recipe": {"volumes": seen, **volumes}}) == volumes


def test_weights_that_do_not_say_what_they_saw_are_told_and_passed_on(
    tmp_path: Path, lists: dict, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = training_arguments(tmp_path, {})
    assert not check_training(**training_arguments(tmp_path, None))["unknown_volumes"]
    assert not check_pretraining(lists, tmp_path / "out", **RUN)["unknown_volumes"]
    assert "do not say" not in caplog.text
    assert check_training(**arguments)["unknown_volumes"] and "do not say which volumes" in caplog.text
    assert check_pretraining(lists, tmp_path / "out", **RUN, pretraining_recipe={})["unknown_volumes"]
    trained_on = {"volumes": [], "unknown_volumes": True}
    assert check_training(**{**arguments, "pretraining_recipe": trained_on})["unknown_volumes"]


def test_lists_from_another_program_only_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = volume(tmp_path / "elsewhere", "copy.nii", 2)
    arguments = training_arguments(tmp_path, {"volumes": [fingerprint(read_volume(copy))]})
    for part in ("training", "validation"):
        arguments[part] = [{"image": i["image"], "label": i["label"]} for i in arguments[part]]
    with caplog.at_level(logging.WARNING):
        checked = check_training(**arguments)
    assert "was seen by pre-training" in caplog.text
    assert checked["managed"] and checked["unknown_volumes"], "MONAI Label loads other weights itself"


def test_fold_all_is_no_leak(tmp_path: Path) -> None:
    arguments = training_arguments(tmp_path, {})
    seen = [fingerprint(read_volume(i["image"])) for i in arguments["training"]]
    everything = {**arguments, "validation": arguments["training"], "pretraining_recipe": {"volumes": seen}}
    assert check_training(**everything)["training_volumes"] == sorted(seen)


@pytest.mark.parametrize("key", ["volumes", "pretraining_volumes", "training_volumes"])
def test_the_record_of_what_was_seen_survives_chains_of_weights(tmp_path: Path, lists: dict, key: str) -> None:
    earlier = {key: [fingerprint(read_volume(lists["held_out"][0]["image"]))]}
    with pytest.raises(ValueError, match="is among the volumes of pre-training"):
        check_pretraining(lists, tmp_path / "out", **RUN, pretraining_recipe=earlier)
    other = check_pretraining({**lists, "held_out": []}, tmp_path / "out", **RUN, pretraining_recipe=earlier)
    assert earlier[key][0] in other["fingerprints"]
    arguments = training_arguments(tmp_path, {})
    earlier = {key: [fingerprint(read_volume(arguments["validation"][0]["image"]))]}
    with pytest.raises(ValueError, match="was seen by pre-training"):
        check_training(**{**arguments, "pretraining_recipe": earlier})


def test_a_copy_of_a_training_case_cannot_validate(tmp_path: Path) -> None:
    arguments = training_arguments(tmp_path, {})
    arguments["validation"] = [case(tmp_path, 9, 0)]
    with pytest.raises(
        ValueError, match="is among the training cases: .*spleen_9.nii.gz .its name there: .*spleen_0.nii.gz"
    ):
        check_training(**arguments)


def test_training_on_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="training needs at least 1 labelled case, got none"):
        check_training(**{**training_arguments(tmp_path, {}), "training": []})


def test_missing_labels_are_named(tmp_path: Path) -> None:
    arguments = training_arguments(tmp_path, {})
    Path(arguments["validation"][0]["label"]).unlink()
    with pytest.raises(ValueError, match="no label .*labelsTr/spleen_2.nii.gz"):
        check_training(**arguments)


@pytest.mark.parametrize(
    ("key", "what"), [("pretraining_volumes", "was seen by pre-training"), ("training_volumes", "was trained on")]
)
def test_evaluation_refuses_seen_cases_unless_told(tmp_path: Path, key: str, what: str) -> None:
    cases, model = [case(tmp_path, i, i) for i in range(2)], tmp_path / "model.pt"
    save_weights(model, NETWORK["network"], {}, bare=True)
    model.with_suffix(".json").write_text(json.dumps({key: [fingerprint(read_volume(cases[1]["image"]))]}))
    with pytest.raises(ValueError, match=f"{what}: .*spleen_1.nii.gz"):
        check_evaluation(cases, tmp_path / "out", model, 0, **NETWORK)
    group = key.removesuffix("_volumes")
    allowed = check_evaluation(cases, tmp_path / "out", model, 0, **NETWORK, allow_seen=True)
    assert allowed == {"spleen_0": "unknown", "spleen_1": group}
    assert check_evaluation(cases, tmp_path / "out", model, "all", **NETWORK) == allowed
    with pytest.raises(ValueError, match=f"{what}: .*spleen_1.nii.gz"):
        check_evaluation(cases, tmp_path / "out", model, "all", **NETWORK, test_dir="/test")


def test_a_page_about_a_folder_that_is_not_there_is_refused_before_the_evaluation(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    save_weights(model, NETWORK["network"], {}, bare=True)
    arguments = ([case(tmp_path, 0, 0)], tmp_path / "out", model, 0)
    for report in (str(tmp_path / "run"), [str(tmp_path), str(tmp_path / "run")]):
        with pytest.raises(FileNotFoundError, match=f"report must be the folder of a run, .* got {tmp_path / 'run'}"):
            check_evaluation(*arguments, **NETWORK, report=report)
    assert check_evaluation(*arguments, **NETWORK, report=[str(tmp_path)])


@pytest.mark.parametrize(("fold", "test_dir"), [("all", None), (0, None), (["other"], "/test"), ("all", "/test")])
def test_cases_that_nothing_has_seen_are_unseen_whatever_the_fold(
    tmp_path: Path, fold: int | str | list[str], test_dir: str | None
) -> None:
    arguments = training_arguments(tmp_path, None)
    recipe = {k: v for k, v in check_training(**arguments).items() if k != "managed"}
    model = tmp_path / "model.pt"
    save_weights(model, NETWORK["network"], recipe, bare=True)
    renamed = {**case(tmp_path, 8, 2), "case_id": "renamed"}  # the validation case of the training
    cases = [case(tmp_path, 7, 7), renamed]
    assert check_evaluation(cases, tmp_path / "out", model, fold, **NETWORK, test_dir=test_dir) == {
        "spleen_7": "unseen",
        "renamed": "validation",
    }


def test_what_chose_the_epoch_is_kept_through_chains_of_weights(tmp_path: Path) -> None:
    arguments = training_arguments(tmp_path, {"validation_volumes": ["ab"]})
    own = fingerprint(read_volume(arguments["validation"][0]["image"]))
    volumes = check_training(**arguments)
    assert volumes["validation_volumes"] == sorted(["ab", own]) and own not in volumes["pretraining_volumes"]
    # it was not learnt from: the next run may validate on it again
    again = check_training(**{**arguments, "pretraining_recipe": {"validation_volumes": [own]}})
    assert again["validation_volumes"] == [own]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (BasicUNet(features=(8, 4, 4, 4, 4, 4)), r"those of .*model.pt do not: .* has the shape \(8, 1, .* instead of"),
        (SwinUNETR(1, 2, feature_size=12), "those of .*model.pt are of SwinUNETR: .* is missing; and .* more"),
    ],
)
def test_evaluation_of_weights_of_another_network_names_what_does_not_fit(
    tmp_path: Path, other: nn.Module, message: str
) -> None:
    model = tmp_path / "model.pt"
    save_weights(model, other, {"network": type(other).__name__}, bare=True)
    with pytest.raises(ValueError, match=rf"weights must fit network_def \(BasicUNet\), {message}.*set network_def as"):
        check_evaluation([case(tmp_path, 0, 0)], tmp_path / "out", model, 0, **NETWORK)


def test_evaluation_without_weights_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no weights at .*model.pt: run .*train.json first, .* or set ckpt_dir"):
        check_evaluation([case(tmp_path, 0, 0)], tmp_path / "out", tmp_path / "model.pt", 0, **NETWORK)


def test_evaluation_warns_of_another_preprocessing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tmp_path / "model.pt"
    save_weights(model, NETWORK["network"], {}, bare=True)
    model.with_suffix(".json").write_text(json.dumps({"spacing": [1.5, 1.5, 2.0], "seed": 1}))
    check_evaluation(
        [case(tmp_path, 0, 0)], tmp_path / "out", model, 0, **NETWORK, settings={"spacing": (3, 3, 3), "roi_size": [1]}
    )
    assert "other settings: spacing was [1.5, 1.5, 2.0], is [3, 3, 3]" in caplog.text


def test_unreadable_volumes_are_skipped_on_request_alone(
    tmp_path: Path, lists: dict, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Path(lists["training"][0]["image"])
    broken.write_bytes(b"no NIfTI")
    with pytest.raises(ValueError, match=f"1 of 6 volume.s. cannot be used:.*\n.*{broken}"):
        check_pretraining(lists, tmp_path / "out", **{**RUN, "batch_size": 2, "contrast_weight": 0})
    with caplog.at_level(logging.WARNING):
        usable = check_pretraining(
            lists, tmp_path / "out", **{**RUN, "batch_size": 2, "contrast_weight": 0}, skip_unreadable=True
        )
    assert usable["training"] == lists["training"][1:] and usable["validation"] == lists["validation"]
    assert f"cannot read the image {broken}" in caplog.text
    with pytest.raises(
        ValueError, match="a batch of 8 crops needs 4 training volumes for each of 1 process.es., got 3"
    ):
        check_pretraining(lists, tmp_path / "out", **{**RUN, "batch_size": 8}, skip_unreadable=True)


def test_crops_that_the_network_cannot_take_are_refused(tmp_path: Path) -> None:
    arguments = training_arguments(tmp_path, {})
    swin = SwinUNETR(in_channels=1, out_channels=2, feature_size=12)
    for network, roi_size, message in [
        (swin, (80, 96, 96), r"roi_size must be a multiple of SwinUNETR's total stride 32, got \[80, 96, 96\]"),
        (swin, (32, 32, 32), "roi_size must give SwinUNETR a bottleneck of more than one voxel"),
        (arguments["network"], (16, 16, 16), "roi_size must give BasicUNet a bottleneck of more than one voxel"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_training(**{**arguments, "network": network, "roi_size": roi_size})
    check_training(**{**arguments, "network": swin, "roi_size": (64, 32, 32)})
    check_training(**{**arguments, "roi_size": (40, 16, 16)})


def test_processes_need_a_volume_each(tmp_path: Path, lists: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="validation needs at least one volume per process, got 1 for 2 processes"):
        check_pretraining(lists, tmp_path / "out", **RUN)
    two = {**lists, "validation": lists["training"][:2], "training": lists["training"][2:]}
    with pytest.raises(ValueError, match="needs 2 training volumes for each of 2 process.es., got 2"):
        check_pretraining(two, tmp_path / "out", **RUN)
    with pytest.raises(ValueError, match="validation needs at least one volume per process"):
        check_training(**training_arguments(tmp_path, {}))


def test_copies_within_the_pool_are_left_out(tmp_path: Path, lists: dict, caplog: pytest.LogCaptureFixture) -> None:
    copy = {"image": volume(tmp_path / "in", "copy_of_validation.nii", 4)}
    twice = {"image": volume(tmp_path / "in", "copy_of_training.nii", 0)}
    usable = check_pretraining({**lists, "training": [*lists["training"], copy, twice]}, tmp_path / "out", **RUN)
    assert usable["training"] == lists["training"] and usable["validation"] == lists["validation"]
    assert copy["image"] in caplog.text and twice["image"] in caplog.text
    # three copies of one volume are one volume
    same = [{"image": volume(tmp_path / "in", f"same_{i}.nii", 7)} for i in range(3)]
    with pytest.raises(ValueError, match="needs 2 training volumes .*, got 1"):
        check_pretraining({**lists, "training": same}, tmp_path / "out", **RUN)
