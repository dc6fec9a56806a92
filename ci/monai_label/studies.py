# SPDX-License-Identifier: Apache-2.0

"""Phantoms as studies for a MONAI Label server, and checks of the masks that the server returns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

from hybridmim_components.data.datasets import dataset_of, read_cases
from hybridmim_components.phantoms import PhantomFolders


def write_studies(folder: Path, dataset: str, data: PhantomFolders) -> tuple[dict[str, Path], str]:
    """Put the images of a data set into one folder, one file a case: sequences of an MRI become one 4D file.

    Args:
        folder: folder of the server's studies, which may hold the images of other data sets.
        dataset: name of the data set.
        data: phantoms of the data set.

    Returns:
        The label of each labelled case, by the image's id, and the id of a case without a label.
    """
    folder.mkdir(exist_ok=True)
    modalities = dataset_of(dataset).modalities
    labels = {}
    for case in read_cases(dataset, data.dataset_dir):
        images = [case["image"]] if isinstance(case["image"], str) else list(case["image"])
        labels[_copy(images, case["case_id"] if modalities else Path(images[0]).name, folder)] = Path(case["label"])
    if modalities:
        first = sorted(data.image_dir.glob(f"*/*_{modalities[0]}.nii.gz"))[0]
        images = [str(first).replace(f"_{modalities[0]}.", f"_{modality}.") for modality in modalities]
        return labels, _copy(images, first.parent.name, folder)
    alone = sorted(data.image_dir.glob("*.nii.gz"))[0]
    return labels, _copy([str(alone)], alone.name, folder)


def _copy(images: list[str], name: str, folder: Path) -> str:
    case = name.removesuffix(".nii.gz")
    target = folder / f"{case}.nii.gz"
    if len(images) == 1:
        shutil.copy(images[0], target)
    else:
        channels = [nib.Nifti1Image.from_filename(image) for image in images]
        stacked = np.stack([np.asarray(channel.dataobj) for channel in channels], axis=-1)
        nib.save(nib.Nifti1Image(stacked, channels[0].affine), target)
    return case


def labels_of(bundle: Path) -> dict[str, int]:
    """Return the label values that the metadata list, without background, by name in lower case as in MONAI Label."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    named = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    return {text.lower(): int(value) for value, text in named.items() if text != "background"}


def check_mask(mask: Path, image: Path, labels: dict[str, int]) -> np.ndarray:
    """Read a mask and check it.

    Raises:
        ValueError: when the mask does not lie on its image's grid, is empty, or holds a value that is no label.
    """
    given, made = nib.Nifti1Image.from_filename(image), nib.Nifti1Image.from_filename(mask)
    if made.shape != given.shape[:3] or not np.allclose(made.affine, given.affine, atol=1e-3):
        raise ValueError(f"a mask must lie on its image's grid, got {made.shape} for {given.shape}")
    values = np.asarray(made.dataobj)
    found = {int(value) for value in np.unique(values)}
    if not {0} < found <= {0, *labels.values()}:
        raise ValueError(f"a mask must hold some of {sorted(labels.values())} besides 0, got {sorted(found)}")
    return values
