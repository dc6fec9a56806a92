# SPDX-License-Identifier: Apache-2.0

"""Checks of volumes, batch and leaks that pre-training, training and evaluation make before they start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from torch import nn

from hybridmim_components.data.inspection import inspect_volumes
from hybridmim_components.data.volumes import VolumeRules, image_files
from hybridmim_components.networks.backbones import check_crop_size
from hybridmim_components.weights import checked_recipe, has_unknown_volumes, recipe_differences, seen_volumes
from hybridmim_components.weights.case_groups import GROUPS, group_cases
from hybridmim_components.workflow.leaks import Digests, Items, digests_of, names_of, refuse_seen, without_copies

__all__ = ["check_evaluation", "check_pretraining", "check_training"]

logger = logging.getLogger(__name__)


def check_pretraining(
    lists: Mapping[str, Any],
    output_dir: str | Path,
    batch_size: int,
    crops_per_volume: int,
    contrast_weight: float,
    same_volume_negatives: bool = False,
    pretraining_recipe: Mapping[str, Any] | None = None,
    allow_seen: bool = False,
    num_workers: int = 2,
    rules: VolumeRules | None = None,
    skip_unreadable: bool = False,
) -> dict[str, Any]:
    """Check a pre-training run.

    Args:
        lists: ``training``, ``validation`` and ``held_out`` of :func:`.data.pretraining_lists`, or ``pool`` and
            ``held_out`` for a prepared store. The volumes of a store are not read again, and held-out cases among them
            are left out.
        output_dir: folder of the run.
        batch_size: crops per batch.
        crops_per_volume: crops drawn from a volume at a time.
        contrast_weight: weight of the contrastive loss. Unless it is 0, a batch must contain negatives.
        same_volume_negatives: whether crops of one volume count as negatives.
        pretraining_recipe: recipe of the weights that this run starts from, None: new weights. The volumes that they
            have seen count too.
        allow_seen: warn instead of refusing when a held-out volume is among those of pre-training.
        num_workers: threads that read the volumes.
        rules: requirements on the volumes.
        skip_unreadable: log unusable volumes and go on without them, instead of raising.

    Returns:
        The usable items of ``training`` and ``validation``; for the recipe of the weights, ``fingerprints`` of every
        volume that pre-training sees, and ``unknown_volumes``, see :func:`.weights.has_unknown_volumes`.

    Raises:
        ValueError: when a setting or volumes are wrong; names them.

    Example:
        >>> from hybridmim_components.data import pretraining_lists
        >>> from hybridmim_components.phantoms import write_unlabelled_hippocampi
        >>> _ = write_unlabelled_hippocampi("volumes", 4, size=(16, 16, 16))
        >>> lists = pretraining_lists("msd_hippocampus", None, unlabelled_dirs="volumes")
        >>> checked = check_pretraining(lists, "out", batch_size=4, crops_per_volume=2, contrast_weight=0.1)
        >>> {name: len(checked[name]) for name in ("training", "validation", "fingerprints")}
        {'training': 3, 'validation': 1, 'fingerprints': 4}
        >>> check_pretraining(lists, "out", batch_size=2, crops_per_volume=2, contrast_weight=0.1)
        Traceback (most recent call last):
        ValueError: the contrastive loss needs crops of at least 2 volumes in a batch, ...
    """
    volumes_per_batch = _volumes_per_batch(batch_size, crops_per_volume)
    processes = idist.get_world_size()
    own_negatives = same_volume_negatives and crops_per_volume > 1
    if contrast_weight > 0 and volumes_per_batch * processes < 2 and not own_negatives:
        raise ValueError(
            f"the contrastive loss needs crops of at least 2 volumes in a batch, got batch_size {batch_size} with "
            f"crops_per_volume {crops_per_volume}: raise batch_size, lower crops_per_volume, "
            "set same_volume_negatives to True, or set contrast_weight to 0"
        )
    inspect = partial(
        inspect_volumes,
        cache_file=Path(output_dir) / "volumes.json",
        num_workers=num_workers,
        rules=rules,
        skip_unreadable=skip_unreadable,
    )
    usable, digests, seen = (_usable_of_store if "pool" in lists else _usable_of_files)(lists, inspect)
    _require_one_per_process(usable["validation"], "validation")
    if len(usable["training"]) < volumes_per_batch * processes:
        raise ValueError(
            f"a batch of {batch_size} crops needs {volumes_per_batch} training volumes for each of {processes} "
            f"process(es), got {len(usable['training'])}: lower batch_size, raise crops_per_volume, or add volumes"
        )
    if not usable["validation"]:
        raise ValueError("pre-training needs at least 1 volume to validate on, got none that can be used")
    seen |= seen_volumes(pretraining_recipe or {})
    # what a store holds has names that the user does not know
    own = [] if "pool" in lists else [item for name in ("training", "validation") for item in usable[name]]
    copies = names_of(own, digests)
    refuse_seen(usable["held_out"], digests, seen, allow_seen, "is among the volumes of pre-training", copies)
    checked = {"training": usable["training"], "validation": usable["validation"], "fingerprints": sorted(seen)}
    return {**checked, "unknown_volumes": _warned_of_unknown(pretraining_recipe)}


def _warned_of_unknown(recipe: Mapping[str, Any] | None) -> bool:
    """Return whether the weights that a run starts from may have seen volumes that nobody knows; if so, warn."""
    unknown = recipe is not None and has_unknown_volumes(recipe)
    if unknown:
        logger.warning(
            "The pre-trained weights do not say which volumes they have seen, so no leak can be noticed: an evaluation "
            "will call cases unknown instead of unseen"
        )
    return unknown


def _usable_of_files(
    lists: Mapping[str, Items], inspect: Callable[[Items], Digests]
) -> tuple[dict[str, Items], Digests, set[str]]:
    """Return the usable items, their fingerprints, and the fingerprints that pre-training sees."""
    digests = inspect([item for name in ("training", "validation", "held_out") for item in lists[name]])
    usable = {name: [item for item in lists[name] if image_files(item["image"]) in digests] for name in lists}
    usable |= without_copies({name: usable[name] for name in ("validation", "training")}, digests)
    return dict(usable), digests, digests_of([*usable["training"], *usable["validation"]], digests)


def _usable_of_store(
    lists: Mapping[str, Any], inspect: Callable[[Items], Digests]
) -> tuple[dict[str, Items], Digests, set[str]]:
    """Return the same as :func:`_usable_of_files` for a prepared store.

    Volumes of the store that are held-out cases are left out, whatever their names there. Only held-out cases that the
    store does not know are read.
    """
    pool, held_out = lists["pool"], lists["held_out"]
    digests = pool.known_fingerprints(item["image"] for item in held_out)
    digests |= inspect([item for item in held_out if image_files(item["image"]) not in digests])
    held_out = [item for item in held_out if image_files(item["image"]) in digests]
    training, validation, left_out = pool.split(without=digests_of(held_out, digests))
    if left_out:
        logger.info("Left out %d volume(s) of the store that are cases to hold out", left_out)
    seen = training.fingerprints() | validation.fingerprints()
    return {"training": training, "validation": validation, "held_out": held_out}, digests, seen


def check_training(
    training: Items,
    validation: Items,
    output_dir: str | Path,
    batch_size: int,
    crops_per_volume: int,
    pretraining_recipe: Mapping[str, Any] | None,
    network: nn.Module,
    roi_size: Sequence[int],
    rules: VolumeRules | None = None,
    allow_seen: bool = False,
    num_workers: int = 2,
) -> dict[str, Any]:
    """Check a fine-tuning run.

    If another program (MONAI Label) has replaced our lists, the items have no case ids. A leak is then only a warning.

    Args:
        training: items with ``image`` and ``label``.
        validation: items with ``image`` and ``label``.
        output_dir: folder of the run.
        batch_size: crops per batch.
        crops_per_volume: crops drawn from a volume at a time.
        pretraining_recipe: recipe of the pre-trained weights, None when training from scratch.
        network: the segmentation network.
        roi_size: size of a crop in voxels.
        rules: requirements on images and labels.
        allow_seen: warn instead of refusing when pre-training has seen a validation volume.
        num_workers: threads that read the volumes.

    Returns:
        Fingerprints for the recipe of the fine-tuned weights, as ``training_volumes``, ``pretraining_volumes`` (those
        that are not among the former) and ``validation_volumes``, with ``unknown_volumes``, see
        :func:`.weights.has_unknown_volumes`; and ``managed``, which says whether another program chose the volumes.

    Raises:
        ValueError: when a setting or volumes are wrong; names them.

    Example:
        >>> from hybridmim_components.data import finetuning_lists
        >>> from hybridmim_components.phantoms import write_msd_hippocampus
        >>> _ = write_msd_hippocampus("data", num_training=10, num_test=0, size=(16, 16, 16))
        >>> lists = finetuning_lists("msd_hippocampus", "data", fold=0)
        >>> settings = {"output_dir": "out", "batch_size": 2, "crops_per_volume": 1, "roi_size": (32, 32, 32)}
        >>> network = BasicUNet(out_channels=3, features=(4, 4, 4, 4, 4, 4))
        >>> checked = check_training(**lists, **settings, network=network, pretraining_recipe=None)
        >>> len(checked["training_volumes"]), len(checked["validation_volumes"])
        (8, 2)
    """
    _volumes_per_batch(batch_size, crops_per_volume)
    check_crop_size(network, roi_size)
    if not training:
        raise ValueError("training needs at least 1 labelled case, got none")
    _require_one_per_process(training, "training")
    _require_one_per_process(validation, "validation")
    digests = inspect_volumes([*training, *validation], Path(output_dir) / "volumes.json", num_workers, rules)
    earlier = pretraining_recipe or {}
    seen = seen_volumes(earlier)
    managed = any("case_id" not in item for item in training)
    trained = {image_files(item["image"]) for item in training}
    held_out = [item for item in validation if image_files(item["image"]) not in trained]
    own = digests_of(training, digests)
    refuse_seen(held_out, digests, seen, allow_seen or managed, "was seen by pre-training")
    refuse_seen(
        held_out, digests, own, allow_seen or managed, "is among the training cases", names_of(training, digests)
    )
    # volumes that chose the epoch of the weights that this run starts from count too
    chose = digests_of(validation, digests) | set(earlier.get("validation_volumes", []))
    # a run that writes to the file that it started from finds its own volumes there when it is resumed
    volumes = {"training_volumes": own, "pretraining_volumes": seen - own, "validation_volumes": chose}
    fingerprints = {key: sorted(value) for key, value in volumes.items()}
    # MONAI Label itself loads the weights of the training before, and tells nothing of what these have seen
    unknown = managed or _warned_of_unknown(pretraining_recipe)
    return {**fingerprints, "unknown_volumes": unknown, "managed": managed}


def check_evaluation(
    validation: Items,
    output_dir: str | Path,
    model_path: str | Path,
    fold: int | str | Sequence[str],
    network: nn.Module,
    roi_size: Sequence[int],
    rules: VolumeRules | None = None,
    settings: Mapping[str, Any] | None = None,
    allow_seen: bool = False,
    num_workers: int = 2,
    test_dir: str | None = None,
    report: str | Sequence[str] | None = None,
) -> dict[str, str]:
    """Check an evaluation, and find out what the weights have seen of each case.

    A case that pre-training or training has seen is refused. The exception is the fold ``all`` without ``test_dir``,
    where every case is meant to be trained on.

    Args:
        validation: items with ``image`` and ``label``.
        output_dir: folder of the figures.
        model_path: fine-tuned weights, with their recipe beside them.
        fold: the fold that is evaluated.
        network: the segmentation network.
        roi_size: size of a sliding window in voxels.
        rules: requirements on images and labels.
        settings: pre-processing of the evaluation. A difference from that of training gives a warning.
        allow_seen: warn instead of refusing.
        num_workers: threads that read the volumes.
        test_dir: folder of the cases, if they do not come from a fold.
        report: folder of a run, or several, about which a page is written at the end.

    Returns:
        One of :data:`.case_groups.GROUPS` for the name of each case.

    Raises:
        FileNotFoundError: when there are no weights, or no folder for the page.
        ValueError: when the weights do not fit the network, or volumes are unusable or were seen; names them.

    Example:
        >>> from hybridmim_components.data import finetuning_lists
        >>> from hybridmim_components.phantoms import write_msd_hippocampus
        >>> from hybridmim_components.weights import save_weights
        >>> _ = write_msd_hippocampus("data", num_training=10, num_test=0, size=(16, 16, 16))
        >>> cases = finetuning_lists("msd_hippocampus", "data", fold=0)["validation"]
        >>> network = BasicUNet(out_channels=3, features=(4, 4, 4, 4, 4, 4))
        >>> save_weights("model.pt", network, {"training_volumes": [], "validation_volumes": []}, bare=True)
        >>> check_evaluation(cases, "out", "model.pt", 0, network, roi_size=(32, 32, 32))
        {'hippocampus_3': 'unseen', 'hippocampus_4': 'unseen'}
    """
    check_crop_size(network, roi_size)
    recipe = checked_recipe(network, model_path)
    for folder in [report] if isinstance(report, str) else report or []:
        if not Path(folder).is_dir():
            raise FileNotFoundError(
                f"report must be the folder of a run, or a list of these, got {Path(folder).resolve()}"
            )
    for difference in recipe_differences(recipe, settings or {}):
        logger.warning("The weights were trained with other settings: %s", difference)
    _require_one_per_process(validation, "evaluation")
    digests = inspect_volumes(validation, Path(output_dir) / "volumes.json", num_workers, rules)
    groups = group_cases(validation, digests, recipe)
    if test_dir or fold != "all":
        for key, what in (("pretraining", "was seen by pre-training"), ("training", "was trained on")):
            refuse_seen(validation, digests, set(recipe.get(f"{key}_volumes", [])), allow_seen, what)
    counts = ", ".join(f"{n} {group}" for group in GROUPS if (n := list(groups.values()).count(group)))
    logger.info("What the weights have seen of the cases: %s", counts)
    return groups


def _volumes_per_batch(batch_size: int, crops_per_volume: int) -> int:
    if crops_per_volume < 1 or batch_size < 1 or batch_size % crops_per_volume:
        raise ValueError(
            "batch_size counts crops and must be a positive multiple of crops_per_volume, "
            f"got {batch_size} and {crops_per_volume}"
        )
    return batch_size // crops_per_volume


def _require_one_per_process(items: Items, purpose: str) -> None:
    if items and len(items) < idist.get_world_size():
        raise ValueError(
            f"{purpose} needs at least one volume per process, got {len(items)} for {idist.get_world_size()} "
            "processes: start fewer processes, or give it more volumes (fold, val_fraction)"
        )
