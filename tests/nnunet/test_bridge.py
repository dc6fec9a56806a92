# SPDX-License-Identifier: Apache-2.0

"""From nnU-Net's preprocessed images to a checkpoint that nnU-Net loads, trains from and predicts with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from hybridmim_components.__main__ import main, nnunet
from hybridmim_components.networks import backbone_of
from hybridmim_components.nnunet import (
    fold_cases,
    network_of_plan,
    pretrain,
    pretraining_config,
    read_plan,
    write_checkpoint,
)
from hybridmim_components.nnunet.pretraining import TRAINERS
from hybridmim_components.weights import read_weights, save_weights
from hybridmim_components.workflow.engines import MaskedBatch

SHORT = {"epochs": 1, "steps_per_epoch": 2, "num_workers": 0}
TRAINER = """
import torch

from hybridmim_components.nnunet.trainers.hybridmim_trainers import nnUNetTrainer_HybridMIM


class nnUNetTrainer_short(nnUNetTrainer_HybridMIM):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 2, 1

    def on_train_start(self):
        super().on_train_start()
        torch.save(self.network.state_dict(), f"{self.output_folder}/loaded.pth")
"""


def network_of_nnunet(folder: Path, channels: int = 1) -> torch.nn.Module:
    """What nnU-Net's own trainer builds from the plans."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(str(folder / "nnUNetPlans.json"))
    settings = manager.get_configuration("3d_fullres")
    return nnUNetTrainer.build_network_architecture(manager, settings, channels, 3, enable_deep_supervision=True)


def assert_loads(network: torch.nn.Module, checkpoint: Path) -> None:
    """nnU-Net's own function takes the checkpoint, and every tensor but those of the output layers is ours then."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    load_pretrained_weights(network, str(checkpoint))
    ours = torch.load(checkpoint, weights_only=True)["network_weights"]
    state = network.state_dict()
    assert {name for name in state if ".seg_layers." not in name} == set(ours)
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.items())


def assert_same_output(network: Any, folder: Path, checkpoint: Path, image: torch.Tensor) -> None:
    """Our backbone with the checkpoint computes what nnU-Net's network does."""
    plan = read_plan(folder.name)
    wrapped = network_of_plan(plan.path, "3d_fullres", plan.in_channels, plan.num_classes, dropout=0.1).eval()
    missing = wrapped.load_state_dict(torch.load(checkpoint, weights_only=True)["network_weights"], strict=False)
    assert not missing.unexpected_keys and all(".seg_layers." in name for name in missing.missing_keys)
    wrapped.decoder.seg_layers.load_state_dict(network.decoder.seg_layers.state_dict())
    network.eval()
    backbone = backbone_of(wrapped)
    with torch.no_grad():
        decoded = backbone.decode(wrapped, backbone.encode(wrapped, image))
        expected = network(image)[0]
        torch.testing.assert_close(backbone.apply_output_layer(wrapped, decoded), expected, atol=1e-5, rtol=1e-5)


def test_strides_that_differ_and_two_channels_work(write_dataset: Callable, tmp_path: Path) -> None:
    folder, output = write_dataset(kind="flat", channels=2, patch_size=[12, 48, 32]), tmp_path / "out"
    checkpoint = pretrain("Dataset004_Small", output, **SHORT, activation_checkpointing=True)
    network = network_of_nnunet(folder, channels=2)
    assert_loads(network, checkpoint)
    assert_same_output(network, folder, checkpoint, torch.randn(1, 2, 12, 48, 32))


def test_pretraining_writes_what_nnunet_loads(write_dataset: Callable, tmp_path: Path) -> None:
    folder, output = write_dataset(), tmp_path / "out"
    typed = nnunet(4, str(output), **SHORT)
    checkpoint = output / "checkpoint_pretrained.pth"
    assert typed.splitlines()[:2] == [
        f"export nnUNet_extTrainer={TRAINERS}",
        "nnUNetv2_train Dataset004_Small 3d_fullres 0 -p nnUNetPlans -tr nnUNetTrainer_HybridMIM "
        f"-pretrained_weights {checkpoint}",
    ]
    network = network_of_nnunet(folder)
    assert_loads(network, checkpoint)
    assert_same_output(network, folder, checkpoint, torch.randn(1, 1, 32, 40, 32))
    assert (output / "training.csv").is_file() and list((output / "previews").glob("*.png"))
    # aliases share their storage
    assert checkpoint.stat().st_size < 1.5 * 4 * sum(p.numel() for p in network.parameters())
    recipe = torch.load(checkpoint, weights_only=True)["recipe"]
    assert (recipe["plans"], recipe["fold"], recipe["patch_size"]) == ("nnUNetPlans", 0, [8, 8, 8])
    assert len(recipe["volumes"]) == len(fold_cases(read_plan(4), 0)[0])


def test_the_config_follows_the_plan_and_what_is_set_goes_before(write_dataset: Callable, tmp_path: Path) -> None:
    settings = {"patch_size": [12, 64, 64], "batch_size": 3, "spacing": [3.0, 1.0, 1.0]}
    write_dataset(kind="flat", normalization_schemes=["CTNormalization"], **settings)
    config = pretraining_config(read_plan(4), tmp_path, 2, ["/more"], {"mask_ratio": 0.6, "batch_size": 4})
    assert (config["roi_size"], config["subvolume_size"]) == ([12, 64, 64], [4, 16, 16])
    assert (config["patch_size"], config["spacing"]) == ([2, 8, 8], [3.0, 1.0, 1.0])
    assert (config["fill_value"], config["in_channels"], config["num_classes"]) == (-7.0, 1, 3)
    assert (config["fold"], config["also"], config["mask_ratio"], config["batch_size"]) == (2, ["/more"], 0.6, 4)
    assert config["model"]["output_activation"] == "identity"
    text = json.dumps(config)
    assert not any(f"@{name}" in text for name in ("clip_percentiles", "dataset_dir", "cache_dir", "stored_pool"))


def test_grown_weights_get_the_size_of_new_ones_in_the_checkpoint(build: Callable, tmp_path: Path) -> None:
    network = build("plain", num_classes=3)
    size = network.decoder.stages[-1].convs[0].conv.weight.norm().item()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4)
    save_weights(tmp_path / "model.pt", network, {})
    path = write_checkpoint(tmp_path, tmp_path / "model.pt", tmp_path / "plain.json", num_classes=3)
    written = torch.load(path, weights_only=True)["network_weights"]
    assert written["decoder.stages.2.convs.0.conv.weight"].norm() == pytest.approx(size, rel=0.2)
    # what no normalisation follows stays as it is
    assert torch.equal(written["decoder.transpconvs.0.weight"], network.decoder.transpconvs[0].weight)
    with pytest.raises(ValueError, match=r"weights must fit network_def .*seg_layers.0.weight has the shape \(3, "):
        write_checkpoint(tmp_path, tmp_path / "model.pt", tmp_path / "plain.json", num_classes=4)


def test_an_interrupted_run_goes_on_to_the_same_weights(
    write_dataset: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain(4, whole, **{**SHORT, "epochs": 2})
    left, prepare = [1, 2, 3], MaskedBatch.__call__

    def fail_at_the_fourth(*arguments: Any, **options: Any) -> Any:
        left.pop()
        return prepare(*arguments, **options)

    with monkeypatch.context() as context:
        context.setattr(MaskedBatch, "__call__", fail_at_the_fourth)
        with pytest.raises(IndexError):
            pretrain(4, parts, **{**SHORT, "epochs": 2})
    assert not (parts / "checkpoint_pretrained.pth").exists()
    pretrain(4, parts, **{**SHORT, "epochs": 2})
    states = [read_weights(folder / "models" / "pretrained" / "last.pt")[0] for folder in (whole, parts)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_mistakes_end_with_one_line(write_dataset: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset()
    for arguments, message in (
        (["--fold", "7"], "error: fold must be all or one of 0 to 4, those of "),
        (["--batch_size", "1"], "error: the contrastive loss needs crops of at least 2 volumes in a batch"),
        (["--patch_size", "[5,8,8]"], "error: patch_size must divide subvolume_size on every axis"),
    ):
        monkeypatch.setattr(sys, "argv", ["x", "nnunet", "4", "--output", str(tmp_path / "out"), *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        assert str(exited.value.code).startswith(message), exited.value.code
    assert not (tmp_path / "out" / "checkpoint_pretrained.pth").exists()


def test_settings_are_given_by_name_and_mistyped_ones_refused(
    write_dataset: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset()
    monkeypatch.setattr(sys, "argv", ["x", "nnunet", "4", "--output", str(tmp_path / "out"), "--epoch", "1"])
    with pytest.raises(SystemExit, match=r"unknown setting: epoch \(did you mean epochs\?\)"):
        main()
    for name in ("cache", "dataset_dir", "clip_percentiles"):
        with pytest.raises(ValueError, match=f"unknown setting: {name}"):
            pretrain(4, tmp_path / "out", **{name: 1})
    assert not (tmp_path / "out").exists()


def write_raw(source: Path, raw: Path, cases: int) -> list[str]:
    """MSD Hippocampus in nnU-Net's raw layout, the last case to predict on; returns the names of the cases."""
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (raw / folder).mkdir(parents=True)
    names = sorted(path.name.removesuffix(".nii.gz") for path in (source / "imagesTr").glob("[!.]*.nii.gz"))[:cases]
    for name in names:
        folder = "imagesTs" if name == names[-1] else "imagesTr"
        shutil.copy(source / "imagesTr" / f"{name}.nii.gz", raw / folder / f"{name}_0000.nii.gz")
        if folder == "imagesTr":
            shutil.copy(source / "labelsTr" / f"{name}.nii.gz", raw / "labelsTr")
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "anterior": 1, "posterior": 2}}
    description |= {"numTraining": cases - 1, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(description))
    return names


def type_command(*words: object) -> str:
    """Run a command of the environment that these tests run in; returns what it prints."""
    command = [str(Path(sys.executable).parent / str(words[0])), *map(str, words[1:])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.mark.full
def test_released_nnunet_trains_and_predicts_from_the_checkpoint(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw data to a mask, with nnU-Net's own commands and the pages' own."""
    places = {name: tmp_path / name for name in ("raw", "preprocessed", "results", "trainers")}
    for name in ("raw", "preprocessed", "results"):
        places[name].mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(places[name]))
    places["trainers"].mkdir()
    (places["trainers"] / "short_trainer.py").write_text(TRAINER)
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join((str(TRAINERS), str(places["trainers"]))))
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    names = write_raw(real_data / "msd_hippocampus", places["raw"] / "Dataset004_Hippocampus", 7)

    type_command("nnUNetv2_plan_and_preprocess", "-d", 4, "-c", "3d_fullres", "-npfp", 1, "-np", 1)
    type_command("nnUNetv2_plan_experiment", "-d", 4, "-pl", "nnUNetPlannerResEncM")
    plan = read_plan(4, "nnUNetResEncUNetMPlans")
    residual = network_of_plan(plan.path, "3d_fullres", plan.in_channels, plan.num_classes).eval()
    x, backbone = torch.randn(1, 1, 32, 32, 32), backbone_of(residual)
    with torch.no_grad():
        decoded = backbone.decode(residual, backbone.encode(residual, x))
        assert torch.equal(backbone.apply_output_layer(residual, decoded), residual(x))

    output = tmp_path / "out"
    settings = [f"--{name}={value}" for name, value in SHORT.items()]
    typed = type_command("python", "-m", "hybridmim_components", "nnunet", 4, "--output", output, *settings)
    _, train, _, scratch = typed.strip().splitlines()[-4:]
    checkpoint = output / "checkpoint_pretrained.pth"
    assert train.endswith(f"-tr nnUNetTrainer_HybridMIM -pretrained_weights {checkpoint}") and "scratch" in scratch
    training, validation = fold_cases(read_plan(4), 0)
    assert sorted(training + validation) == names[:-1]
    remembered = json.loads((output / "pretrain.json").read_text())
    assert (remembered["roi_size"], remembered["fold"]) == ([32, 48, 32], 0)

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # which nnU-Net's planner does not take
    words = train.replace("nnUNetTrainer_HybridMIM", "nnUNetTrainer_short").split()
    type_command(*words, "-device", "cpu")
    results = places["results"] / "Dataset004_Hippocampus" / "nnUNetTrainer_short__nnUNetPlans__3d_fullres"
    loaded = torch.load(results / "fold_0" / "loaded.pth", weights_only=True)
    ours = torch.load(checkpoint, weights_only=True)["network_weights"]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in ours.items())
    assert set(loaded) - set(ours) == {name for name in loaded if ".seg_layers." in name}
    final = torch.load(results / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert any(not torch.equal(final[name], tensor) for name, tensor in ours.items())

    import blosc2

    folder = places["preprocessed"] / "Dataset004_Hippocampus"
    image = blosc2.open(str(folder / "nnUNetPlans_3d_fullres" / f"{names[0]}.b2nd"), mode="r")[...]
    sizes = [n // 8 * 8 for n in image.shape[1:]]
    image = torch.from_numpy(image[None, :, : sizes[0], : sizes[1], : sizes[2]])
    network = network_of_nnunet(folder)
    assert_loads(network, checkpoint)
    assert_same_output(network, folder, checkpoint, image)

    # a training that has ended is loaded and validated again
    type_command(*words[:-2], "-device", "cpu", "--c")
    masks = tmp_path / "masks"
    arguments = ("-i", places["raw"] / "Dataset004_Hippocampus" / "imagesTs", "-o", masks, "-d", 4, "-f", 0)
    arguments += ("-c", "3d_fullres", "-p", "nnUNetPlans", "-tr", "nnUNetTrainer_short", "-npp", 1, "-nps", 1)
    type_command("nnUNetv2_predict", *arguments, "-device", "cpu", "--disable_tta")
    mask = nib.load(masks / f"{names[-1]}.nii.gz")
    given = nib.load(real_data / "msd_hippocampus" / "imagesTr" / f"{names[-1]}.nii.gz")
    assert mask.shape == given.shape and np.allclose(mask.affine, given.affine)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}
