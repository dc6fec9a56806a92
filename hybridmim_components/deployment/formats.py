# SPDX-License-Identifier: Apache-2.0

"""Deployment formats: how to write each one, how to read it back in its own runtime, and what it cannot do."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from monai.bundle.scripts import ckpt_export
from torch import Tensor

from hybridmim_components.deployment.comparison import compare
from hybridmim_components.deployment.staged_norm import with_staged_norms
from hybridmim_components.deployment.trained_bundle import TrainedBundle

__all__ = ["FORMATS", "DeploymentFormat", "Onnx", "OpenVino", "TorchScript"]

Runtime = Callable[[Tensor], Tensor]


class DeploymentFormat(ABC):
    """Base class of the file formats. ``suffixes`` lists the files of an export; users open the last one.

    Example:
        >>> for form in FORMATS.values():
        ...     print(form.name, *form.suffixes, "needs", *(form.packages or ["nothing else"]))
        torchscript .ts needs nothing else
        onnx .onnx needs onnx onnxscript onnxruntime
        openvino .bin .xml needs openvino
    """

    name: str
    suffixes: tuple[str, ...]
    packages: tuple[str, ...] = ()
    """Optional packages that writing and verifying need."""

    def check_packages(self) -> list[str]:
        """Import the packages that the format needs.

        Returns:
            Each package with its version.

        Raises:
            ValueError: when a package is missing; tells what to install.
        """
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise ValueError(
                    f"the format {self.name} needs {package}, which cannot be imported ({error}): "
                    f"pip install {' '.join(self.packages)} (tested versions: requirements-deployment.lock)"
                ) from error
        return [f"{package} {version(package)}" for package in ("torch", *self.packages)]

    def limits(self, bundle: TrainedBundle) -> list[str]:
        """Describe what the exported file cannot do."""
        if bundle.resizable:
            return [f"takes any batch size, and crops whose sides are multiples of {bundle.stride}"]
        name, size = type(bundle.network).__name__, "x".join(str(side) for side in bundle.roi_size)
        return [
            f"takes any batch size, and crops of {size} voxels only, since {name} can be traced at one size only: "
            "infer by sliding window with this roi_size, and export again for another one"
        ]

    @abstractmethod
    def write(self, bundle: TrainedBundle, path: Path) -> None:
        """Write the network to a path with the last suffix, and its other files beside it."""

    @abstractmethod
    def load(self, path: Path) -> Runtime:
        """Read the file back in its own runtime, on the CPU in single precision."""

    def remarks(self, path: Path, images: Tensor, expected: Tensor, overlapping: bool) -> list[str]:
        """Return what else users must know about this file on this machine."""
        return []


class TorchScript(DeploymentFormat):
    """TorchScript by MONAI's ``ckpt_export``, with metadata.json and inference.json inside for MONAI Deploy."""

    name, suffixes = "torchscript", (".ts",)

    def limits(self, bundle: TrainedBundle) -> list[str]:
        """Describe what the file cannot do; a scripted network takes whatever the network itself takes."""
        return ["takes any batch size and any size of crop"] if bundle.resizable else super().limits(bundle)

    def write(self, bundle: TrainedBundle, path: Path) -> None:
        """Script the network, or trace it where it cannot be scripted."""
        with TemporaryDirectory() as folder, _quiet():
            # not the bundle's own files, since MONAI Deploy must read them with the overrides
            files = {name: Path(folder) / f"{name}.json" for name in ("metadata", "inference")}
            for name, text in _texts(bundle, self).items():
                files[name].write_text(text, encoding="utf-8")
            weights = Path(folder) / "model.pt"
            torch.save(bundle.network.state_dict(), weights)
            ckpt_export(
                "network_def",
                filepath=str(path),
                ckpt_file=str(weights),
                meta_file=str(files["metadata"]),
                config_file=str(files["inference"]),
                use_trace=not bundle.resizable,
                input_shape=[1, bundle.image_format["num_channels"], *bundle.roi_size],
                # no second trace to compare with: the file is compared with PyTorch anyway
                converter_kwargs={} if bundle.resizable else {"check_trace": False},
            )

    def load(self, path: Path) -> Runtime:
        """Load the file by torch.jit."""
        with _quiet():
            return torch.jit.load(str(path), map_location="cpu").eval()


class Onnx(DeploymentFormat):
    """ONNX by PyTorch's exporter on torch.export; the model's properties hold metadata and inference config."""

    name, suffixes, packages = "onnx", (".onnx",), ("onnx", "onnxscript", "onnxruntime")

    def write(self, bundle: TrainedBundle, path: Path) -> None:
        """Write one file, weights included."""
        names = {0: "batch"} | ({2: "height", 3: "width", 4: "depth"} if bundle.resizable else {})
        with _quiet():
            program = torch.onnx.export(
                with_staged_norms(bundle.network),
                (_example(bundle, 2),),
                dynamo=True,
                dynamic_shapes=(names,),
                input_names=["image"],
                output_names=["pred"],
                verbose=False,
            )
        assert program is not None  # never None with dynamo=True
        program.model.metadata_props.update(_texts(bundle, self))
        program.save(str(path), external_data=False)

    def load(self, path: Path) -> Runtime:
        """Load the file by ONNX Runtime."""
        runtime = importlib.import_module("onnxruntime")
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(["pred"], {"image": images.numpy()})[0])


class OpenVino(DeploymentFormat):
    """OpenVINO straight from PyTorch; the model's rt_info holds metadata and inference config below hybridmim."""

    name, suffixes, packages = "openvino", (".bin", ".xml"), ("openvino",)

    def write(self, bundle: TrainedBundle, path: Path) -> None:
        """Write .xml and .bin; the weights stay in single precision."""
        openvino = importlib.import_module("openvino")
        sides = [-1] * 3 if bundle.resizable else list(bundle.roi_size)
        shape = openvino.PartialShape([-1, bundle.image_format["num_channels"], *sides])
        network = with_staged_norms(bundle.network)
        with _quiet():
            model = openvino.convert_model(network, example_input=_example(bundle, 1), input=[shape])
        for port, name in ((model.inputs[0], "image"), (model.outputs[0], "pred")):
            port.get_tensor().set_names({name})
        for name, text in _texts(bundle, self).items():
            model.set_rt_info(text, ["hybridmim", name])
        openvino.save_model(model, str(path), compress_to_fp16=False)

    def load(self, path: Path) -> Runtime:
        """Load the file by OpenVINO's CPU plugin in single precision; by default it may choose bfloat16."""
        return self._compile(path, {"INFERENCE_PRECISION_HINT": "f32"})[1]

    def remarks(self, path: Path, images: Tensor, expected: Tensor, overlapping: bool) -> list[str]:
        """Report the error of OpenVINO's default precision on this CPU, unless that is single precision."""
        precision, runtime = self._compile(path, {})
        if precision == "f32":
            return []
        result = compare(expected, runtime(images), overlapping)
        return [
            f"on this CPU OpenVINO computes in {precision} unless told otherwise: then logits differ by up to "
            f"{result.max_difference:.2g} and {result.agreement:.4%} of the voxels agree; compile the model with "
            'INFERENCE_PRECISION_HINT "f32" to get what was verified'
        ]

    @staticmethod
    def _compile(path: Path, settings: dict[str, str]) -> tuple[str, Runtime]:
        openvino: Any = importlib.import_module("openvino")
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return precision, lambda images: torch.from_numpy(compiled(images.numpy())[0].copy())


FORMATS: dict[str, DeploymentFormat] = {form.name: form for form in (TorchScript(), Onnx(), OpenVino())}


def _texts(bundle: TrainedBundle, form: DeploymentFormat) -> dict[str, str]:
    """Return the JSON texts to embed in an exported file, by the stem of their file name."""
    deployment = {"format": form.name, "limits": form.limits(bundle)}
    return {
        "metadata": json.dumps({**bundle.metadata, "deployment": deployment}),
        "inference": json.dumps(bundle.config),
    }


def _example(bundle: TrainedBundle, batch_size: int) -> Tensor:
    """Return a crop to trace with.

    torch.export makes a batch size of one a constant. OpenVINO keeps the output of every layer, so the crop is small.
    """
    size = [2 * bundle.stride] * 3 if bundle.resizable else bundle.roi_size
    return torch.zeros(batch_size, bundle.image_format["num_channels"], *size)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' messages: TorchScript is old, sizes become constants, names of temporary files."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
