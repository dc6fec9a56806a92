# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import load_net_with_metadata
from torch import nn

from hybridmim_components.deployment import FORMATS, TrainedBundle, export, export_network, phantom_images
from hybridmim_components.weights import save_weights

BUNDLES = Path(__file__).parents[2] / "bundles"
SMALL: dict[str, dict[str, Any]] = {
    "unet": {
        "roi_size": [32, 32, 48],
        "overrides": {"network_def#features": [4, 4, 4, 8, 8, 4], "spacing": [3.0, 3.0, 3.0]},
    },
    "dynunet": {"roi_size": [32, 32, 48], "overrides": {"network_def#filters": [4, 4, 4, 8, 8]}},
    # two blocks in the first stage: the second one's windows are shifted, which takes a mask for the size of the crop
    "swinunetr": {
        "roi_size": [64, 64, 64],
        "overrides": {"network_def#feature_size": 12, "network_def#depths": [2, 1, 1, 1]},
    },
}
SUFFIXES = {"torchscript": ".ts", "onnx": ".onnx", "openvino": ".xml"}


def network_of(bundle: Path, backbone: str) -> nn.Module:
    """The shrunk network, with random weights that are the same each time."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    for key, value in SMALL[backbone]["overrides"].items():
        parser[key] = value
    torch.manual_seed(0)
    return parser.get_parsed_content("network_def").eval()


@pytest.fixture
def trained(tmp_path: Path) -> Callable[[str], Path]:
    """A bundle's configs and the weights of its shrunk network, in a folder of the test."""

    def make(name: str) -> Path:
        bundle = tmp_path / name
        shutil.copytree(BUNDLES / f"hybridmim_{name}_segmentation" / "configs", bundle / "configs")
        (bundle / "models").mkdir()
        torch.save(network_of(bundle, name.rpartition("_")[2]).state_dict(), bundle / "models" / "model.pt")
        return bundle

    return make


@pytest.fixture
def spleen(trained: Callable[[str], Path]) -> Path:
    return trained("msd_spleen_unet")


def need(format: str) -> None:
    for package in FORMATS[format].packages:
        pytest.importorskip(package, reason=f"{package} is not installed: requirements-deployment.lock")


def runtime_logits(path: Path, images: torch.Tensor) -> torch.Tensor:
    """Logits as a user gets them, without the code that is tested."""
    if path.suffix == ".ts":
        return torch.jit.load(str(path))(images)
    if path.suffix == ".onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {"image": images.numpy()})[0])
    core = pytest.importorskip("openvino").Core()
    compiled = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled({"image": images.numpy()})["pred"].copy())


def texts_in(path: Path) -> dict[str, str]:
    """The bundle's metadata and inference config, as a program finds them in the file."""
    if path.suffix == ".ts":
        _, metadata, extra = load_net_with_metadata(str(path), more_extra_files=["inference.json"])
        return {"metadata": json.dumps(metadata), "inference": extra["inference.json"]}
    if path.suffix == ".onnx":
        model = pytest.importorskip("onnx").load(str(path))
        return {entry.key: entry.value for entry in model.metadata_props}
    model = pytest.importorskip("openvino").Core().read_model(str(path))
    return {name: model.get_rt_info(["hybridmim", name]).value for name in ("metadata", "inference")}


def files_in(bundle: Path) -> set[str]:
    return {path.name for path in (bundle / "models").iterdir()}


# Tracing SwinUNETR takes a minute in each of the two; the UNet's conversion covers their code.
CASES = [
    pytest.param("msd_spleen_unet", "torchscript"),
    pytest.param("brats2020_unet", "torchscript"),
    pytest.param("msd_hippocampus_unet", "torchscript"),
    pytest.param("msd_spleen_dynunet", "torchscript"),
    pytest.param("msd_spleen_swinunetr", "torchscript", marks=pytest.mark.slow),
    *(
        pytest.param(f"msd_spleen_{backbone}", format, marks=mark)
        for backbone, mark in (
            ("unet", pytest.mark.slow),
            ("dynunet", pytest.mark.full),
            ("swinunetr", pytest.mark.full),
        )
        for format in ("onnx", "openvino")
    ),
]


@pytest.mark.parametrize(("name", "format"), CASES)
def test_exported_file_gives_the_logits_of_pytorch(trained: Callable[[str], Path], name: str, format: str) -> None:
    need(format)
    bundle, backbone = trained(name), name.rpartition("_")[2]
    report = export_network(bundle, format, **SMALL[backbone])
    assert report.path == bundle / "models" / f"model{SUFFIXES[format]}"
    assert report.comparison.max_difference <= 1e-3 and report.comparison.agreement >= 0.999
    assert report.size > 10_000
    channels, size = (4 if "brats" in name else 1), SMALL[backbone]["roi_size"]
    network = network_of(bundle, backbone)
    sizes = [size] if backbone == "swinunetr" else [size, [48, 32, 16 * 4]]
    for batch_size, crop in ((3, sizes[0]), (1, sizes[-1])):
        images = torch.rand(batch_size, channels, *crop)
        with torch.no_grad():
            expected = network(images)
            logits = runtime_logits(report.path, images)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)
    extra = {"model.bin"} if format == "openvino" else set()
    assert files_in(bundle) == {"model.pt", report.path.name} | extra
    texts = texts_in(report.path)
    assert json.loads(texts["metadata"])["deployment"]["limits"] == report.notes[:1]
    assert json.loads(texts["inference"])["roi_size"] == size


def test_torchscript_holds_metadata_and_inference_config_of_what_was_exported(spleen: Path) -> None:
    report = export_network(spleen, "torchscript", **SMALL["unet"])
    _, metadata, extra = load_net_with_metadata(str(report.path), more_extra_files=["inference.json"])
    assert metadata["name"] == "HybridMIM MSD Spleen UNet segmentation"
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32, 48]
    assert metadata["network_data_format"]["outputs"]["pred"]["spatial_shape"] == [32, 32, 48]
    config = json.loads(extra["inference.json"])
    assert config["roi_size"] == [32, 32, 48] and config["spacing"] == [3.0, 3.0, 3.0]
    assert config["network_def"]["features"] == [4, 4, 4, 8, 8, 4]
    assert "_meta_" not in config


def test_monai_deploy_finds_channels_first_without_the_loader(spleen: Path) -> None:
    """MONAI Deploy drops LoadImaged, and with it ensure_channel_first."""
    steps = TrainedBundle.load(spleen, **SMALL["unet"]).config["preprocessing"]["transforms"]
    assert steps[0] == {"_target_": "LoadImaged", "keys": "image"}
    assert steps[1] == {"_target_": "EnsureChannelFirstd", "keys": "image"}
    stored = ConfigParser.load_config_file(str(spleen / "configs" / "inference.json"))["preprocessing"]["transforms"]
    assert steps[2:] == stored[1:]


@pytest.mark.slow
def test_fixed_size_of_swinunetr_is_told(trained: Callable[[str], Path]) -> None:
    report = export_network(trained("msd_spleen_swinunetr"), "torchscript", **SMALL["swinunetr"])
    _, metadata, _ = load_net_with_metadata(str(report.path))
    assert "crops of 64x64x64 voxels only, since SwinUNETR can be traced at one size only" in str(report)
    assert metadata["deployment"] == {"format": "torchscript", "limits": report.notes}
    with torch.no_grad(), pytest.raises(RuntimeError):
        runtime_logits(report.path, torch.rand(1, 1, 96, 64, 64))


@pytest.mark.parametrize("weights", [None, "elsewhere.pt"])
def test_missing_weights_are_named_with_what_writes_them(spleen: Path, weights: str | None) -> None:
    (spleen / "models" / "model.pt").unlink()
    with pytest.raises(FileNotFoundError) as error:
        export_network(spleen, "torchscript", weights=weights, **SMALL["unet"])
    places = [spleen / "models" / "model.pt"] if weights is None else [Path(weights), spleen / weights]
    assert f"at {' or '.join(str(place) for place in places)}: run {spleen / 'configs' / 'train.json'} first" in str(
        error.value
    )
    assert not files_in(spleen)


def test_weights_are_found_in_the_bundle(spleen: Path) -> None:
    os.rename(spleen / "models" / "model.pt", spleen / "models" / "best.pt")
    assert export_network(spleen, "torchscript", weights="models/best.pt", **SMALL["unet"]).weights.name == "best.pt"


def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no .*inference.json"):
        export_network(tmp_path, "torchscript")


def test_weights_of_another_network_are_refused(spleen: Path) -> None:
    other = {**SMALL["unet"]["overrides"], "network_def#features": [4, 4, 4, 8, 16, 4]}
    with pytest.raises(ValueError, match="weights must fit network_def .*BasicUNet.*down_4.* has the shape"):
        export_network(spleen, "torchscript", roi_size=[32, 32, 48], overrides=other)
    assert files_in(spleen) == {"model.pt"}


def test_another_pre_processing_than_in_training_is_refused(spleen: Path) -> None:
    recipe = {"spacing": [3.0, 3.0, 3.0], "intensity_range": [-57, 164]}
    (spleen / "models" / "model.json").write_text(json.dumps(recipe))
    TrainedBundle.load(spleen, **SMALL["unet"])
    overrides = {name: value for name, value in SMALL["unet"]["overrides"].items() if name != "spacing"}
    with pytest.raises(ValueError, match=r"model.pt\), but spacing was \[3.0, 3.0, 3.0\], is \[1.5, 1.5, 2.0\]: name"):
        TrainedBundle.load(spleen, overrides=overrides)


def test_weights_of_pretraining_are_refused(spleen: Path) -> None:
    """They fit in every shape, but nobody has trained the output layer."""
    save_weights(spleen / "models" / "model.pt", network_of(spleen, "unet"), {"mask_ratio": 0.4})
    with pytest.raises(ValueError, match="must be of a fine-tuned network, .*model.pt is of pre-training"):
        export_network(spleen, "torchscript", **SMALL["unet"])


def shifted(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    network = torch.jit.load(str(path))
    return lambda images: network(images) + 0.01


@pytest.mark.parametrize("older", [True, False])
def test_file_beyond_the_tolerance_is_not_left(spleen: Path, monkeypatch: pytest.MonkeyPatch, older: bool) -> None:
    target = spleen / "models" / "model.ts"
    if older:
        target.write_text("older")
    monkeypatch.setattr(FORMATS["torchscript"], "load", shifted)
    with pytest.raises(ValueError, match=r"within 0.001 .* got 0.01 and 100.0000%: nothing was written"):
        export_network(spleen, "torchscript", **SMALL["unet"])
    assert files_in(spleen) == ({"model.pt", "model.ts"} if older else {"model.pt"})
    assert not older or target.read_text() == "older"
    # the same file passes where the user accepts as much
    export_network(spleen, "torchscript", tolerance=0.02, **SMALL["unet"])
    assert target.stat().st_size > 10_000


def test_differing_labels_fail_within_the_tolerance(spleen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
        network = torch.jit.load(str(path))
        return lambda images: network(images).flip(1)

    monkeypatch.setattr(FORMATS["torchscript"], "load", swapped)
    with pytest.raises(ValueError, match="the same label to 99.9% of the voxels, got"):
        export_network(spleen, "torchscript", tolerance=1e3, **SMALL["unet"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "tensorrt"}, r"format must be one of \('torchscript', 'onnx', 'openvino'\), got 'tensorrt'"),
        ({"output": "model.pt"}, "output must end in .ts for the format torchscript, got model.pt"),
        ({"tolerance": 0.0}, "tolerance must be above 0, got 0.0"),
        ({"tolerance": float("nan")}, "tolerance must be above 0"),
        ({"roi_size": [32, 32, 40]}, r"roi_size must be three multiples of 16 for BasicUNet, got \[32, 32, 40\]"),
        ({"roi_size": [32, 32]}, "roi_size must be three multiples of 16"),
        ({"overrides": {"network_deff": 1}}, r"unknown setting: network_deff \(did you mean network_def\?\)"),
    ],
)
def test_wrong_arguments_are_refused(spleen: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_network(spleen, **({"format": "torchscript", **SMALL["unet"]} | changes))
    assert files_in(spleen) == {"model.pt"}


def test_outputs_must_be_those_of_the_metadata(spleen: Path) -> None:
    overrides = SMALL["unet"]["overrides"] | {"num_classes": 3}
    parser = ConfigParser()
    parser.read_config(str(spleen / "configs" / "inference.json"))
    for key, value in overrides.items():
        parser[key] = value
    torch.save(parser.get_parsed_content("network_def").state_dict(), spleen / "models" / "model.pt")
    with pytest.raises(ValueError, match="must have the 2 outputs of metadata.json, got 3"):
        export_network(spleen, "torchscript", roi_size=[32, 32, 48], overrides=overrides)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_missing_package_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    packages = FORMATS[format].packages
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{format} needs {packages[0]}.*pip install {' '.join(packages)} "):
        export_network(tmp_path / "there is no bundle yet", format)


def test_interrupted_publishing_leaves_no_old_graph_beside_new_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = sys.modules["hybridmim_components.deployment.export"]._publish
    for folder, text in (("draft", "new"), ("models", "old")):
        (tmp_path / folder).mkdir()
        for suffix in (".bin", ".xml"):
            (tmp_path / folder / f"model{suffix}").write_text(text)
    calls: list[Path] = []

    def killed(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        shutil.move(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        publish([tmp_path / "draft" / "model.bin", tmp_path / "draft" / "model.xml"], tmp_path / "models")
    assert {p.name: p.read_text() for p in (tmp_path / "models").iterdir()} == {"model.bin": "new"}


def test_command_prints_file_and_difference(spleen: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "spleen.ts"
    text = export(str(spleen), output=str(output), **SMALL["unet"])
    assert output.is_file()
    assert text.startswith(f"{output}: BasicUNet of {spleen / 'models' / 'model.pt'} as torchscript")
    assert "by at most 0 (tolerance 0.001), 100.0000% of the voxels" in text
    assert "takes any batch size and any size of crop" in text


def test_phantoms_have_the_intensities_of_the_network(trained: Callable[[str], Path]) -> None:
    ct = TrainedBundle.load(trained("msd_spleen_unet"), **SMALL["unet"])
    images = phantom_images(ct, 2, (32, 48, 32), seed=1)
    assert images.shape == (2, 1, 32, 48, 32) and images.dtype == torch.float32
    assert images.min() == 0 and images.max() == 1 and 0.05 < images.std() < 0.5
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images[1], phantom_images(ct, 1, (32, 48, 32), seed=2)[0])
    mr = TrainedBundle.load(trained("brats2020_unet"), **SMALL["unet"])
    brains = phantom_images(mr, 1, (32, 32, 32))
    assert brains.shape == (1, 4, 32, 32, 32) and mr.overlapping and not ct.overlapping
    inside = brains[brains != 0]
    assert inside.mean().abs() < 0.01 and 0.9 < inside.std() < 1.1
