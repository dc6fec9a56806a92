# SPDX-License-Identifier: Apache-2.0

"""A hospital's day with the real MONAI Label server: infer, correct, train, infer again, on two bundles at once."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNet
from monai_label.label_server import START
from monai_label.studies import check_mask, labels_of, write_studies
from small_bundles import small_bundle, small_phantoms

logger = logging.getLogger(__name__)
ROOT = Path(__file__).parents[2]
PICTURE = "HYBRIDMIM_LABEL_PICTURE"
SPLEEN, BRAIN = (f"hybridmim_{name}_unet_segmentation" for name in ("msd_spleen", "brats2020"))
SHORT = {SPLEEN: "msd_spleen_unet", BRAIN: "brats2020_unet"}


def trained_bundle(folder: Path, name: str) -> Path:
    """A small copy of a bundle, with its weights."""
    bundle, weights = small_bundle(folder, name)
    shutil.copytree(weights.parent, bundle / "models")
    return bundle


def network_of(bundle: Path) -> BasicUNet:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    return parser.get_parsed_content("network_def")


def write_all_studies(folder: Path, root: Path) -> dict[str, tuple[dict[str, Path], str]]:
    """Images of both kinds in one folder; returns the labels of each case and the case without, by bundle."""
    return {
        name: write_studies(folder, dataset, small_phantoms(root / dataset, dataset, num_training))
        for name, dataset, num_training in ((SPLEEN, "msd_spleen", 6), (BRAIN, "brats2020", 3))
    }


def infer(server: Any, name: str, studies: Path, case: str, labels: dict[str, int], folder: Path) -> np.ndarray:
    """By the image's id, by upload, and in the format that 3D Slicer asks for: thrice the same mask."""
    image, mask = studies / f"{case}.nii.gz", folder / "mask.nii.gz"
    result = server.infer(name, mask, image=case)
    assert result["label_names"] == labels
    values = check_mask(mask, image, labels)
    logger.info("%s answered in %.2f s", name, result["latencies"]["total"])
    server.infer(name, mask, upload=image)
    np.testing.assert_array_equal(check_mask(mask, image, labels), values)
    server.infer(name, folder / "mask.nrrd", image=case, result_extension=".nrrd", result_dtype="uint8")
    for_slicer = itk.array_from_image(itk.imread(str(folder / "mask.nrrd"))).transpose()
    np.testing.assert_array_equal(for_slicer, values)
    return values


def slicer_options(info: dict[str, Any], name: str) -> dict[str, Any]:
    """What 3D Slicer sends with a training: each option that the server offers, an empty ``run_id`` among them."""
    options = info["trainers"][name]["config"].items()
    return {key: value[0] if isinstance(value, list) else value for key, value in options} | {"run_id": ""}


def save_picture(path: Path, image: Path, mask: np.ndarray) -> None:
    """The middle slice through the mask, over the image, front of the patient up."""
    given = nib.as_closest_canonical(nib.load(image))
    placed = nib.as_closest_canonical(nib.Nifti1Image(mask.astype(np.uint8), nib.load(image).affine))
    data, shown = np.asarray(given.dataobj), np.asarray(placed.dataobj)
    depth = int(np.median(np.nonzero(shown)[2]))
    figure, axes = plt.subplots(1, 2, figsize=(8, 4))
    for axis in axes:
        axis.imshow(data[::-1, :, depth].T, cmap="gray", origin="lower", vmin=-200, vmax=300)
        axis.axis("off")
    over = np.ma.masked_equal(shown[::-1, :, depth].T, 0)
    axes[1].imshow(over, cmap="autumn", origin="lower", alpha=0.5, interpolation="nearest")
    figure.suptitle("a phantom, and the mask that MONAI Label's server returned")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


@pytest.mark.full
def test_annotators_infer_correct_train_and_infer_again(start_server: Callable, tmp_path: Path) -> None:
    studies, app = tmp_path / "the studies", tmp_path / "the app"
    cases = write_all_studies(studies, tmp_path / "phantoms")
    bundles = {name: trained_bundle(tmp_path / "bundles", short) for name, short in SHORT.items()}
    names = ",".join(str(bundle) for bundle in bundles.values())
    arguments = ("--bundles", names, "--studies", str(studies), "--app", str(app))
    server = start_server(*arguments)

    info = server.get("/info/")
    assert set(info["models"]) == set(info["trainers"]) == {SPLEEN, BRAIN}
    labels = {name: info["models"][name]["labels"] for name in bundles}
    assert labels == {name: labels_of(bundle) for name, bundle in bundles.items()}
    trained = {name: app / "model" / name / "models" / "model.pt" for name in bundles}

    def infer_both() -> dict[str, np.ndarray]:
        return {name: infer(server, name, studies, cases[name][1], labels[name], tmp_path) for name in bundles}

    def train(name: str, **params: object) -> None:
        untrained, started = trained[name].read_bytes(), time.monotonic()
        task = server.train(name, **params)
        logger.info("%s trained in %.1f s", name, time.monotonic() - started)
        assert task["status"] == "DONE", server.text()
        assert trained[name].read_bytes() != untrained
        network_of(bundles[name]).load_state_dict(torch.load(trained[name], weights_only=True))

    before = infer_both()
    drawn = list(cases[SPLEEN][0].items())
    for case, label in drawn[:4]:
        server.save_label(case, label)
    train(SPLEEN, max_epochs=1, train_batch_size=1, val_split=0.2)
    for case, label in drawn[4:]:
        server.save_label(case, label)
    train(SPLEEN, **slicer_options(info, SPLEEN) | {"max_epochs": 1, "val_split": 0})
    after = infer_both()
    assert (after[SPLEEN] != before[SPLEEN]).any()
    np.testing.assert_array_equal(after[BRAIN], before[BRAIN])

    # all labels are in one folder: those of the brain must not get into the spleen's training
    for case, label in cases[BRAIN][0].items():
        server.save_label(case, label)
    weights = trained[SPLEEN].read_bytes()
    assert server.train(SPLEEN, max_epochs=1)["status"] == "ERROR", server.text()
    assert re.search(r"ValueError: .*BraTS20_Training_001", server.text(), re.DOTALL), server.text()
    assert trained[SPLEEN].read_bytes() == weights
    for case, _ in drawn:
        server.remove_label(case)
    train(BRAIN, **slicer_options(info, BRAIN) | {"max_epochs": 1, "val_split": 0.3})
    after = infer_both()
    assert (after[BRAIN] != before[BRAIN]).any()

    server.stop()
    server = start_server(*arguments)
    for name, mask in infer_both().items():
        np.testing.assert_array_equal(mask, after[name], err_msg="a restart must keep the retrained weights")
    if os.environ.get(PICTURE):
        for case, _ in cases[BRAIN][0].items():
            server.remove_label(case)
        for case, label in drawn:
            server.save_label(case, label)
        train(SPLEEN, max_epochs=40, val_split=0)
        mask = infer(server, SPLEEN, studies, cases[SPLEEN][1], labels[SPLEEN], tmp_path)
        save_picture(Path(os.environ[PICTURE]), studies / f"{cases[SPLEEN][1]}.nii.gz", mask)


@pytest.mark.full
def test_frugal_inference_gives_annotators_the_same_masks(start_server: Callable, tmp_path: Path) -> None:
    studies = tmp_path / "the studies"
    _, case = write_studies(studies, "msd_spleen", small_phantoms(tmp_path / "phantoms", "msd_spleen", 6))
    usual = trained_bundle(tmp_path / "bundles", SHORT[SPLEEN])
    frugal = export_with_frugal_inference(usual, tmp_path / "exported")
    arguments = ("--bundles", f"{usual},{frugal}", "--studies", str(studies), "--app", str(tmp_path / "app"))
    server = start_server(*arguments)
    masks = [infer(server, b.name, studies, case, labels_of(b), tmp_path) for b in (usual, frugal)]
    # what the left-out windows alone would see is background
    body = np.asarray(nib.load(studies / f"{case}.nii.gz").dataobj) > -500
    assert (masks[0] == masks[1])[body].mean() >= 0.999


def export_with_frugal_inference(bundle: Path, output: Path) -> Path:
    """The exported bundle, which bears another name since its weights are not for patients."""
    command = [sys.executable, str(ROOT / "ci" / "export_bundle.py"), str(bundle), "--frugal_inference"]
    command += ["--trained_on", "phantoms", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip().splitlines()[-1])


def start(cwd: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}" if path else os.environ["PATH"]}
    command = [str(START), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def test_help_and_mistakes_are_told_before_anything_is_installed(tmp_path: Path) -> None:
    (tmp_path / "msd_spleen_unet.pt").touch()
    assert start(tmp_path, "--help").stdout.startswith("Usage: ci/monai_label/start.sh")
    for arguments, message in (
        (("--bundels", "x"), "unknown argument: --bundels"),
        (("--studies", "."), "name the bundles with --bundles"),
        (("--bundles", "msd_spleen_unet"), "name the folder of images with --studies"),
        (("--bundles", "msd_spleen", "--studies", "."), "folders of bundles, got msd_spleen"),
        (("--bundles", "msd_spleen_unet,msd_spleen_unet", "--studies", ".", "--models-dir", "."), "twice"),
        (("--bundles", "msd_spleen_unet", "--studies", ".", "--port", "0"), "--port must be 1 to 65535, got 0"),
    ):
        done = start(tmp_path, *arguments)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    done = start(tmp_path, "--bundles", "msd_spleen_unet", "--studies", "nowhere")
    assert done.returncode == 1 and "--studies must be an existing folder, got nowhere" in done.stderr


def test_missing_weights_are_named_with_each_place_looked_at(tmp_path: Path) -> None:
    bundle = tmp_path / "bundles" / SPLEEN
    shutil.copytree(ROOT / "bundles" / SPLEEN / "configs", bundle / "configs")
    done = start(tmp_path, "--bundles", str(bundle), "--studies", str(tmp_path), "--models-dir", str(tmp_path))
    assert done.returncode == 1 and f"{bundle} has no weights" in done.stderr
    for place in (tmp_path / "model.pt", tmp_path / SPLEEN / "model.pt", bundle / "models" / "model.pt"):
        assert f"  {place}\n" in done.stderr


def test_bundles_are_copied_without_their_runs_once_and_a_server_for_others_is_warned_of(tmp_path: Path) -> None:
    """With a stand-in for python that prints how the server would be started."""
    sample, weights, app = (
        tmp_path / "monailabel" / "sample-apps" / "monaibundle",
        tmp_path / "weights",
        tmp_path / "app",
    )
    for folder in (sample, weights, tmp_path / "bin"):
        folder.mkdir(parents=True)
    (sample / "main.py").touch()
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {tmp_path} || echo "started: $*"\n')
    python.chmod(0o755)
    (weights / "msd_spleen_unet.pt").write_text("first")
    (weights / "brats2020_unet.pt").touch()
    arguments = ["--no-install", "--studies", str(tmp_path), "--models-dir", str(weights), "--app", str(app)]
    arguments += ["--bundles", "msd_spleen_unet,brats2020_unet"]
    done = start(tmp_path, *arguments, path=python.parent)
    assert f"--conf models {SPLEEN},{BRAIN} --conf zoo_source local --conf sam2 false" in done.stdout, done.stderr
    assert "--host 127.0.0.1 --port 8000" in done.stdout
    assert "WARNING" not in done.stderr and "takes all labels" in done.stdout
    copied = app / "model" / SPLEEN
    assert {path.name for path in copied.iterdir()} == {"LICENSE", "configs", "docs", "models"}
    (copied / "models" / "model.pt").write_text("retrained")
    done = start(tmp_path, *arguments, "--host", "0.0.0.0", path=python.parent)
    assert "WARNING: the server listens on 0.0.0.0 and has no login" in done.stderr
    assert "--host 0.0.0.0" in done.stdout
    assert (copied / "models" / "model.pt").read_text() == "retrained"
