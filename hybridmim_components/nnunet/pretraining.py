# SPDX-License-Identifier: Apache-2.0

"""Pre-train the network of nnU-Net's plans with a bundle's config, and write the checkpoint that nnU-Net reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from hybridmim_components.networks import restore_scale, scale_free_norms
from hybridmim_components.nnunet.plans import Plan, grid_of_plan, network_of_plan, read_plan
from hybridmim_components.system.errors import root_cause
from hybridmim_components.system.files import save_tensors, write_text
from hybridmim_components.system.overrides import find_mistyped, find_unknown
from hybridmim_components.weights import read_weights
from hybridmim_components.weights.check import require_fitting_state

__all__ = ["CHECKPOINT", "TRAINERS", "pretrain", "pretraining_config", "training_command", "write_checkpoint"]

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint_pretrained.pth"
TRAINERS = Path(__file__).parent / "trainers"
_BUNDLE = Path(__file__).parents[2] / "bundles" / "hybridmim_msd_hippocampus_unet_segmentation"
# settings of the bundle's config for reading, resampling and caching images, which nnU-Net has preprocessed already
_NOT_OURS = frozenset(
    ("cache", "cache_dir", "clip_percentiles", "crop_counts", "crop_transforms", "dataset_dir")
    + ("deterministic_transforms", "stored_pool", "preprocessing", "rules", "store", "unlabelled_dirs")
)


def pretrain(
    dataset: str | int,
    output: str | Path,
    plans: str = "nnUNetPlans",
    configuration: str = "3d_fullres",
    fold: int | str = 0,
    also: str | Collection[str] = (),
    **settings: Any,
) -> Path:
    """Pre-train the network of nnU-Net's plans on the preprocessed images of a fold's training cases.

    A repeated call continues an interrupted run. ``output`` receives the config, the learning curves, pictures of
    validation crops, the checkpoints, and the weights with their recipe.

    Args:
        dataset: number or name of the data set.
        output: folder of the run.
        plans: name of the plans.
        configuration: a 3D configuration that is not the second stage of a cascade.
        fold: fold that nnU-Net will train. With ``all``, no case is held out.
        also: further folders of images, see :func:`.preprocessed_lists`.
        settings: further settings of the config, by name, such as ``epochs`` or ``mask_ratio``.

    Returns:
        Path of the file for ``nnUNetv2_train -pretrained_weights``.

    Raises:
        ValueError: when plans, fold, images or a setting cannot be used.
    """
    plan = read_plan(dataset, plans, configuration)
    folders = [also] if isinstance(also, str) else list(also)
    config = pretraining_config(plan, Path(output), fold, [str(Path(folder).resolve()) for folder in folders], settings)
    failure = _run(config, Path(output) / "pretrain.json")
    if failure is not None:
        raise failure
    return Path(output) / CHECKPOINT


def pretraining_config(
    plan: Plan, output: Path, fold: int | str, also: list[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """Make the config of a run: a bundle's config with the network, images and sizes of a plan.

    Args:
        plan: the plan.
        output: folder of the run.
        fold: fold that nnU-Net will train.
        also: further folders of images.
        settings: further settings by name, such as ``epochs`` or ``network_def#dropout``.

    Returns:
        A config for ``python -m monai.bundle run``.

    Raises:
        ValueError: when a setting does not exist, or this package is not installed from a checkout.
    """
    base = _BUNDLE / "configs" / "pretrain.json"
    if not base.is_file():
        raise ValueError(f"this command needs the repository's bundles, there is no {base}: pip install -e CHECKOUT")
    config = _without(ConfigParser.load_config_files([str(base), str(Path(__file__).with_name("pretrain.json"))]))
    grid = grid_of_plan(plan)
    of_plan = {
        "bundle_root": str(output.resolve()),
        "dataset": plan.dataset,
        "plans": plan.path.stem,
        "plans_path": str(plan.path),
        "configuration": plan.configuration,
        "fold": fold,
        "also": also,
        "in_channels": plan.in_channels,
        "num_classes": plan.num_classes,
        "spacing": plan.preprocessing["spacing"],
        "batch_size": plan.batch_size,
        "roi_size": list(grid.image_size),
        "subvolume_size": list(grid.subvolume_size),
        "patch_size": list(grid.patch_size),
        "fill_value": plan.fill_value,
    }
    unknown = find_unknown(list(settings), config)
    if unknown:
        raise ValueError(f"unknown setting: {'; '.join(unknown)}")
    mistyped = find_mistyped(settings, config)
    if mistyped:
        raise ValueError("; ".join(mistyped))
    parser = ConfigParser(config)
    parser.update({**of_plan, **settings})
    return parser.get()


def write_checkpoint(
    output: str | Path,
    weights: str | Path,
    plans_path: str | Path,
    configuration: str = "3d_fullres",
    in_channels: int = 1,
    num_classes: int = 2,
) -> Path:
    """Write pre-trained weights for nnU-Net, with all names that a tensor has in nnU-Net's network.

    The scale of convolutions is restored, see :func:`.networks.restore_scale`. The output layers are left out,
    since nnU-Net does not load them.

    Args:
        output: folder of ``checkpoint_pretrained.pth``.
        weights: file of :func:`.weights.save_weights`.
        plans_path: plans file of the network.
        configuration: configuration of the plans.
        in_channels: channels of an image.
        num_classes: channels of the segmentation.

    Returns:
        The file.

    Raises:
        ValueError: when the weights cannot be read or do not fit the network; names the first tensors that do not.
    """
    network = network_of_plan(plans_path, configuration, in_channels, num_classes)
    norms = scale_free_norms(network)
    state, recipe = read_weights(weights)
    require_fitting_state(network, state, weights, str(recipe.get("network", "")))
    network.load_state_dict(state)
    logger.info("Restored the scale of %d convolutions", len(restore_scale(network, norms)))
    named = {name: tensor for name, tensor in network.state_dict().items() if ".seg_layers." not in name}
    path = Path(output) / CHECKPOINT
    # nnU-Net's own checkpoints hold the plans at this place; they tell the order of the axes
    plans = json.loads(Path(plans_path).read_text(encoding="utf-8"))
    init_args = {"plans": plans, "configuration": configuration}
    save_tensors(path, {"network_weights": named, "recipe": recipe, "init_args": init_args})
    logger.info("Wrote %s", path)
    return path


def training_command(plan: Plan, fold: int | str, checkpoint: Path) -> str:
    """Return the shell commands that train a fold from a checkpoint, and from scratch."""
    train = f"nnUNetv2_train {plan.dataset} {plan.configuration} {fold} -p {plan.path.stem}"
    return "\n".join(
        (
            f"export nnUNet_extTrainer={TRAINERS}",
            f"{train} -tr nnUNetTrainer_HybridMIM -pretrained_weights {checkpoint.resolve()}",
            "# the same training from scratch, to compare with:",
            f"{train} -tr nnUNetTrainer_HybridMIM_scratch",
        )
    )


def _run(config: dict[str, Any], path: Path) -> BaseException | None:
    """Run a config as MONAI does, and return the error that ended it, without MONAI's errors around it."""
    text = json.dumps(config, indent=4) + "\n"
    parser = ConfigParser(config)
    try:
        parser.get_parsed_content("initialize")
        write_text(path, text)  # when the folder belongs to this run alone
        parser.get_parsed_content("run")
        parser.get_parsed_content("finalize")
    except RuntimeError as error:
        return root_cause(error)
    return None


def _without(value: Any) -> Any:
    """Return a config without the entries of ``_NOT_OURS`` and without references to them."""
    references = {f"@{name}" for name in _NOT_OURS}
    if isinstance(value, list):
        return [_without(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _without(part)
        for name, part in value.items()
        if name not in _NOT_OURS and not (isinstance(part, str) and part in references)
    }
