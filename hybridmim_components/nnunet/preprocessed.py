# SPDX-License-Identifier: Apache-2.0

"""List the images that nnU-Net has preprocessed for pre-training, and read crops of them lazily.

The images are read in nnU-Net's order of axes, so that they are neither re-oriented nor resampled again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hybridmim_components.data.lazy_crops import LazyCrops
from hybridmim_components.data.splits import hold_out
from hybridmim_components.data.volumes import Image, fingerprint, image_files
from hybridmim_components.nnunet.plans import Plan, preprocessing_of, read_plan
from hybridmim_components.system.files import file_state, read_json_object, write_text

__all__ = ["PreprocessedCrops", "PreprocessedImages", "PreprocessedPool", "fold_cases", "preprocessed_lists"]

logger = logging.getLogger(__name__)
SPLITS = "splits_final.json"
_FOLDS = 5
_SUFFIX = ".b2nd"


class PreprocessedImages(Sequence[dict[str, Any]]):
    """A sequence of items with ``image``, a preprocessed file, and ``volume``, a number that depends on its voxels.

    Args:
        digests: fingerprints of the channels by file.
        files: files of these images.
    """

    def __init__(self, digests: Mapping[str, Sequence[str]], files: Sequence[str]) -> None:
        self.digests = digests
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return PreprocessedImages(self.digests, self.files[index])
        file = self.files[index]
        return {"image": file, "volume": int(self.digests[file][0][:12], 16)}

    def fingerprints(self) -> set[str]:
        """Return the fingerprints of all channels of all images."""
        return {digest for file in self.files for digest in self.digests[file]}


@dataclass(frozen=True)
class PreprocessedPool:
    """The images that pre-training may see; a pool of :func:`.preflight.check_pretraining`.

    Attributes:
        digests: fingerprints of the channels by file, also of held-out cases.
        files: files that pre-training may see.
        val_fraction: share of the images that pre-training is validated on.
        split_seed: seed of the split.
    """

    digests: Mapping[str, Sequence[str]]
    files: Sequence[str]
    val_fraction: float
    split_seed: int

    def known_fingerprints(self, images: Iterable[Image]) -> dict[tuple[str, ...], list[str]]:
        """Return the fingerprints of images by their files."""
        return {image_files(image): list(self.digests[str(image)]) for image in images}

    def split(self, without: Collection[str]) -> tuple[PreprocessedImages, PreprocessedImages, int]:
        """Split the images into training and validation; of copies only the first is used.

        Args:
            without: fingerprints. An image with any of them, in any channel, is left out.

        Returns:
            Training images, validation images, and the number of images left out because of ``without``.

        Raises:
            ValueError: when ``val_fraction`` is out of range, or fewer than 2 images are left.
        """
        barred, seen, file_of = 0, set(without), {}
        for file in self.files:
            if seen.isdisjoint(self.digests[file]):
                # by its voxels, so that the split depends on no path
                file_of[self.digests[file][0]] = file
                seen.update(self.digests[file])
            elif not set(without).isdisjoint(self.digests[file]):
                barred += 1
        own = hold_out(list(file_of), self.val_fraction, self.split_seed)
        training, validation = ([file_of[digest] for digest in ids] for ids in own)
        return PreprocessedImages(self.digests, training), PreprocessedImages(self.digests, validation), barred


def preprocessed_lists(
    dataset: str | int,
    plans: str,
    configuration: str,
    fold: int | str,
    also: str | Sequence[str] = (),
    val_fraction: float = 0.1,
    split_seed: int = 0,
    cache_file: str | Path | None = None,
) -> dict[str, Any]:
    """List the images for pre-training: the fold's training cases and the images of other preprocessed data sets.

    Every image is read once to check it and to compute its fingerprints.

    Args:
        dataset: number or name of the data set.
        plans: name of its plans.
        configuration: configuration of the plans.
        fold: fold that nnU-Net will train. Its validation cases are never seen. With ``all``, no case is held out.
        also: folders of images preprocessed with the same plans, such as DatasetXXX_NAME/nnUNetPlans_3d_fullres.
        val_fraction: share of the images that pre-training is validated on.
        split_seed: seed of the split.
        cache_file: JSON file that keeps the fingerprints of files whose size and time of change stay the same.

    Returns:
        ``pool``, the images that may be seen, and ``held_out``, the fold's validation cases. Copies of held-out cases
        in the pool are left out by :func:`.preflight.check_pretraining`.

    Raises:
        ValueError: when the plan, fold or an image does not exist, a folder was preprocessed with other plans, or an
            image cannot be used; names it.
    """
    plan = read_plan(dataset, plans, configuration)
    training, validation = fold_cases(plan, fold)
    seen = [str(plan.folder / f"{case}{_SUFFIX}") for case in training]
    held_out = [str(plan.folder / f"{case}{_SUFFIX}") for case in sorted(set(validation) - set(training))]
    for folder in [also] if isinstance(also, str) else also:
        _require_same_preprocessing(plan, Path(folder))
        seen += [str(path.resolve()) for path in _images(Path(folder))]
    seen = list(dict.fromkeys(seen))
    digests = _fingerprints([*held_out, *seen], plan.in_channels, cache_file)
    pool = PreprocessedPool(digests, seen, val_fraction, split_seed)
    return {"pool": pool, "held_out": [{"image": file} for file in held_out]}


def fold_cases(plan: Plan, fold: int | str) -> tuple[list[str], list[str]]:
    """Return the names of the cases that nnU-Net trains and validates a fold on.

    If ``splits_final.json`` does not exist, it is written with nnU-Net's own function, as nnU-Net's trainer does.

    Args:
        plan: the plan.
        fold: number of the fold, or ``all``.

    Returns:
        Training cases and validation cases; for ``all`` both are all cases.

    Raises:
        ValueError: when the fold does not exist, there are too few cases to split, or a case is missing.
    """
    cases = [path.name.removesuffix(_SUFFIX) for path in _images(plan.folder)]
    if fold == "all":
        return cases, cases
    path = plan.path.parent / SPLITS
    if not path.is_file():
        if len(cases) < _FOLDS:
            raise ValueError(f"nnU-Net splits at least {_FOLDS} cases, got {len(cases)} in {plan.folder}: write {path}")
        from nnunetv2.utilities.crossval_split import generate_crossval_split

        # what nnUNetTrainer.do_split gives it
        made = generate_crossval_split(cases, seed=12345, n_splits=_FOLDS)
        write_text(path, json.dumps([{k: [str(i) for i in ids] for k, ids in s.items()} for s in made], indent=4))
        logger.info("Wrote %s, as nnU-Net's trainer would", path)
    splits = json.loads(path.read_text(encoding="utf-8"))
    if fold not in range(len(splits)):
        raise ValueError(f"fold must be all or one of 0 to {len(splits) - 1}, those of {path}, got {fold}")
    training, validation = splits[int(fold)]["train"], splits[int(fold)]["val"]
    missing = sorted({*training, *validation} - set(cases))
    if missing:
        raise ValueError(f"{path} names {len(missing)} case(s) that are not in {plan.folder}, such as {missing[0]}")
    return training, validation


class PreprocessedCrops(LazyCrops):
    """Data set of crops of preprocessed images that reads only the blocks of a file that a crop touches.

    Random crops are drawn uniformly from the image, like most of nnU-Net's own. The crop for validation is the centre
    of the image. Smaller images are padded with 0 on both sides, as in nnU-Net. Items of ``data`` have ``image``, a
    file, and ``volume``; arguments are those of :class:`.lazy_crops.LazyCrops`.
    """

    def __getitem__(self, index: int) -> dict[str, Any] | list[dict[str, Any]]:
        """Return items with ``image`` (C, *roi_size), float32, and ``volume``: a list, or the crop in the middle."""
        from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

        item = self.data[index]
        image = _open(item["image"])
        crops = []
        for _ in range(self.crops_per_volume or 1):
            starts = [self._start(size, roi) for size, roi in zip(image.shape[1:], self.roi_size, strict=True)]
            box = [[start, start + roi] for start, roi in zip(starts, self.roi_size, strict=True)]
            crop = {"image": torch.from_numpy(crop_and_pad_nd(image, box, 0)).float(), "volume": item["volume"]}
            crops.append(self.transformed(crop))
        return crops if self.crops_per_volume else crops[0]

    def _start(self, size: int, roi: int) -> int:
        if self.crops_per_volume and size > roi:
            return int(self.R.randint(size - roi + 1))
        return (size - roi) // 2


def _open(path: str) -> Any:
    """Open a file of nnU-Net without reading its voxels."""
    import blosc2

    return blosc2.open(urlpath=path, mode="r", dparams={"nthreads": 1})


def _images(folder: Path) -> list[Path]:
    """List the images of a folder, without its segmentations."""
    found = [path for path in sorted(folder.glob(f"*{_SUFFIX}")) if not path.stem.endswith("_seg")]
    if not found:
        raise ValueError(f"no {_SUFFIX} images in {folder}: nnUNetv2_preprocess writes them")
    return found


def _require_same_preprocessing(plan: Plan, folder: Path) -> None:
    """Check that images have the axes, spacing and normalisation of a plan."""
    others = []
    for path in sorted(folder.parent.glob("*lans*.json")):
        content = read_json_object(path)
        for settings in content.get("configurations", {}).values():
            if settings.get("data_identifier") == folder.name:
                others.append(preprocessing_of(content, settings))
    if not others:
        raise ValueError(f"also must name folders such as {plan.folder}, beside their plans, got {folder}")
    if plan.preprocessing not in others:
        raise ValueError(
            "also must name images that the same plans have preprocessed, got other axes, another spacing or "
            f"normalisation in {folder}: nnUNetv2_move_plans_between_datasets, then nnUNetv2_preprocess -plans_name"
        )


def _fingerprints(files: Sequence[str], channels: int, cache_file: str | Path | None) -> dict[str, list[str]]:
    known = read_json_object(cache_file) if cache_file is not None and Path(cache_file).is_file() else {}
    states = {file: file_state(file) for file in files}
    missing = [file for file, state in states.items() if not state]
    if missing:
        raise ValueError(f"there is no image {missing[0]}")
    new = [file for file in files if known.get(file, [None])[0] != states[file]]
    if new:
        logger.info("Reading %d image(s) to check and fingerprint them", len(new))
    for file in new:
        known[file] = [states[file], _checked(file, channels)]
    if cache_file is not None and new:
        write_text(cache_file, json.dumps(known, indent=1))
    return {file: known[file][1] for file in files}


def _checked(file: str, channels: int) -> list[str]:
    """Check an image and return the fingerprints of its channels."""
    try:
        image = torch.from_numpy(_open(file)[...].astype(np.float32))
    except Exception as error:  # blosc2 has exceptions of many kinds
        raise ValueError(f"cannot read the image {file}: {error}") from error
    if image.ndim != 4 or len(image) != channels:
        raise ValueError(f"image must have {channels} channel(s) and 3 axes, got {tuple(image.shape)} in {file}")
    if not bool(image.isfinite().all()):
        raise ValueError(f"image must hold finite values only, got NaN or infinity in {file}")
    return [fingerprint(channel[None]) for channel in image]
