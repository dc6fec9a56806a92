# SPDX-License-Identifier: Apache-2.0

"""A MONAI Deploy application that segments one image with a bundle's TorchScript file and writes the mask as NIfTI.

ci/monai_deploy/run.sh makes its environment and starts it. ``MonaiBundleInferenceOperator`` reads pre-processing,
sliding window and post-processing of the bundle from the file. The application does not use hybridmim_components.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import load_net_with_metadata
from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType, Operator, OperatorSpec
from monai.deploy.operators import (
    DICOMDataLoaderOperator,
    DICOMSeriesSelectorOperator,
    DICOMSeriesToVolumeOperator,
    MonaiBundleInferenceOperator,
)
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping

SUFFIXES = (".nii", ".nii.gz")


class NiftiSource(Operator):
    """Reader of one NIfTI file, or of one file per channel, that keeps the affine, which the SDK's own reader drops."""

    def __init__(self, fragment: Any, *arguments: Any, files: Sequence[Path], **options: Any) -> None:
        self.files = files
        super().__init__(fragment, *arguments, **options)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare one output."""
        spec.output("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Emit the image (H, W, D) or (H, W, D, C) with the same metadata as MONAI's readers give."""
        images = [nib.Nifti1Image.from_filename(file) for file in self.files]
        first = images[0]
        for file, image in zip(self.files, images, strict=True):
            if image.shape != first.shape or not np.allclose(image.affine, first.affine, atol=1e-3):
                raise ValueError(
                    f"the files of a case must lie on one grid, {file} does not lie on that of {self.files[0]}"
                )
        voxels = np.stack([image.get_fdata(dtype=np.float32) for image in images], axis=-1)
        if len(images) == 1:
            voxels = voxels[..., 0]
        metadata = {
            "affine": first.affine,
            "original_affine": first.affine.copy(),
            "spacing": np.asarray(first.header.get_zooms()[:3]),
            "spatial_shape": np.asarray(first.shape[:3]),
            "original_channel_dim": "no_channel" if voxels.ndim == 3 else -1,
            "space": "RAS",
        }
        op_output.emit(Image(voxels, metadata=metadata), "image")


class OneSeries(DICOMSeriesSelectorOperator):
    """Selector of the only series of a folder, which refuses a series that the SDK would misplace.

    The SDK (4.0.0) exchanges the spacing of rows with that of columns, and assumes that slices are evenly spaced.
    """

    def filter(self, selection_rules: Any, dicom_study_list: Any, *options: Any) -> Any:
        """Select all series, as the SDK does, and check them.

        Raises:
            ValueError: when there is not exactly one series, its pixels are not square, or a slice is missing.
        """
        selected = super().filter(selection_rules, dicom_study_list, *options)
        found = [one.series for study in selected for one in study.selected_series]
        if len(found) != 1:
            names = ", ".join(str(series.SeriesInstanceUID) for series in found)
            raise ValueError(f"the folder must hold one DICOM series, got {len(found)}: {names}")
        slices = [instance.get_native_sop_instance() for instance in found[0].get_sop_instances()]
        row, column = (float(value) for value in slices[0].PixelSpacing)
        if not np.isclose(row, column, rtol=1e-3):
            raise ValueError(f"pixels must be square, since the SDK exchanges their sides, got {row} and {column} mm")
        axes = np.asarray(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
        places = [float(np.cross(*axes) @ np.asarray(one.ImagePositionPatient, dtype=float)) for one in slices]
        steps = np.diff(sorted(places))
        if len(steps) == 0 or not np.allclose(steps, np.median(steps), rtol=0.02):
            raise ValueError(f"a series must have two or more evenly spaced slices, got steps of {np.unique(steps)} mm")
        return selected


class NiftiSink(Operator):
    """Writer of the mask as NIfTI, on the grid of its image."""

    def __init__(self, fragment: Any, *arguments: Any, file: Path, **options: Any) -> None:
        self.file = file
        super().__init__(fragment, *arguments, **options)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare one input."""
        spec.input("pred")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the mask from the bundle operator, whose axes are those of DICOM (D, W, H)."""
        mask = op_input.receive("pred")
        affine = np.asarray(mask.metadata()["original_affine"])
        self.file.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.swapaxes(mask.asnumpy(), 0, 2), affine), self.file)


class Segmentation(Application):
    """Application that reads an image, runs the bundle and writes the mask.

    Args:
        model: TorchScript file of ``python -m hybridmim_components export``.
        images: one NIfTI file, one NIfTI file per channel, or a folder with a DICOM series.
        output: NIfTI file of the mask.
    """

    def __init__(self, model: Path, images: Sequence[Path], output: Path) -> None:
        self.model, self.images, self.output = model, images, output
        super().__init__([])

    def compose(self) -> None:
        """Connect the operators."""
        bundle = MonaiBundleInferenceOperator(
            self,
            app_context=AppContext({"model": str(self.model)}),
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            bundle_path=str(self.model),
            name="bundle",
        )
        once = CountCondition(self, 1)  # else a source emits for ever
        if self.images[0].is_dir():
            loader = DICOMDataLoaderOperator(self, once, input_folder=self.images[0], name="loader")
            selector = OneSeries(self, name="selector")
            source: Operator = DICOMSeriesToVolumeOperator(self, name="source")
            self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
            self.add_flow(selector, source, {("study_selected_series_list", "study_selected_series_list")})
        else:
            source = NiftiSource(self, once, files=self.images, name="source")
        sink = NiftiSink(self, file=self.output, name="sink")
        self.add_flow(source, bundle, {("image", "image")})
        self.add_flow(bundle, sink, {("pred", "pred")})


def check(model: Path, images: Sequence[Path]) -> None:
    """Check the arguments before anything runs.

    Raises:
        FileNotFoundError: when a file does not exist. For the model, the message names the command that writes it.
        ValueError: when there are more or fewer files than the bundle has channels.
    """
    if not model.is_file():
        raise FileNotFoundError(f"no TorchScript file at {model}: python -m hybridmim_components export writes it")
    for image in images:
        if not image.exists():
            raise FileNotFoundError(f"there is no image {image}")
        if not image.is_dir() and not image.name.endswith(SUFFIXES):
            raise ValueError(
                f"image must be a NIfTI file ({', '.join(SUFFIXES)}) or a folder of DICOM files, got {image}"
            )
    _, metadata, _ = load_net_with_metadata(str(model))
    channels = metadata["network_data_format"]["inputs"]["image"]["channel_def"]
    first = images[0]
    found = len(images)
    if found == 1 and not first.is_dir() and len(nib.Nifti1Image.from_filename(first).shape) == 4:
        found = nib.Nifti1Image.from_filename(first).shape[3]
    if found != len(channels):
        names = ", ".join(channels.values())
        raise ValueError(
            f"{model} takes {len(channels)} channel(s) ({names}), got {found} in {', '.join(map(str, images))}"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="ci/monai_deploy/run.sh", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path, help="model.ts of a bundle")
    parser.add_argument("output", type=Path, help="folder that the mask, NAME_seg.nii.gz, is written to")
    parser.add_argument(
        "image",
        type=Path,
        nargs="+",
        help="NIfTI file, or one for each sequence in the bundle's order, or a DICOM folder",
    )
    options = parser.parse_args()
    name = options.image[0].resolve().name.removesuffix(".gz").removesuffix(".nii")
    target = options.output / f"{name}_seg.nii.gz"
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        check(options.model, options.image)
        target.unlink(missing_ok=True)
        Segmentation(options.model, options.image, target).run()
    except Exception as error:
        sys.exit(f"error: {error}")
    if not target.is_file():
        sys.exit(f"error: no mask was written to {target}, see above")
    print(target)


if __name__ == "__main__":
    main()
