# SPDX-License-Identifier: Apache-2.0

"""Measure whether the region level learns, by mask fill, heads, mask ratio, patch size and augmentation.

    python benchmarks/region_level.py --data ct=FOLDER --data brain=FOLDER             # the ablation, in 2D
    python benchmarks/region_level.py --data ct=FOLDER --data brain=FOLDER --dims 3    # before and after, in 3D

Each cell pre-trains a small network with the components and the transforms of a bundle's pretrain.json, in one process
and one thread. On held-out volumes it then measures the accuracies of the number and the location of masked patches,
and the masked error as a share of the error of guessing the mean of the visible voxels. Crops in 2D are axial slices. A
finished cell is a row of the CSV file and is not computed again. BEFORE stands for the bundles before the region level
was measured: a token that starts at 0, heads that see the mean of a sub-volume's bottleneck voxels, no augmentation.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNet, SwinUNETR
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose, SpatialPadd
from rows import add_rows, read_rows

from hybridmim_components.data import CountedCropByPosNegLabeld, find_volumes, make_dataset
from hybridmim_components.data.seeded_loader import SeededLoader
from hybridmim_components.data.splits import hold_out
from hybridmim_components.method import HybridMIM
from hybridmim_components.method.losses import (
    HybridMIMLoss,
    guessing,
    location_loss,
    masked_squared_error,
    number_loss,
    visible_mean_error,
)
from hybridmim_components.method.masking import MaskGrid, expand_mask, sample_mask
from hybridmim_components.method.partial_region import choose_region, full_region
from hybridmim_components.networks import set_execution
from hybridmim_components.workflow.engines import decay_groups, perception_figures, unchanged_share

ROOT = Path(__file__).resolve().parents[1]
# bundle, spacing in mm, and modalities
DATA: dict[str, tuple[str, float, list[str] | None]] = {
    "ct": ("msd_spleen_unet", 4.0, None),
    "brain": ("brats2020_unet", 2.0, ["flair", "t1ce"]),
    "hippocampus": ("msd_hippocampus_unet", 1.0, None),
}
RATES = {"unet": 0.002, "swinunetr": 0.001}
WIDTHS = {"small": ((8, 8, 16, 32, 64, 8), 12, (1, 1, 1, 1)), "bundle": ((64, 64, 128, 256, 512, 64), 48, (2, 2, 2, 2))}
KEY = ("dims", "data", "backbone", "width", "learning_rate", "steps", "variant", "seed")
BEFORE: dict[str, Any] = {"fill": "token", "value": 0.0, "heads": "mean", "augmentation": False}
AFTER: dict[str, Any] = {}  # the bundle's own settings
VARIANTS: dict[str, dict[str, Any]] = {
    "before": BEFORE,
    "before, constant far off": {"heads": "mean", "augmentation": False},
    "before, all voxels": {**BEFORE, "heads": "place"},
    "after": AFTER,
    "fill zero": {"fill": "zero"},
    "fill token from 0": {"fill": "token", "value": 0.0},
    "fill token far off": {"fill": "token"},
    "fill constant half as far": {"times": 0.5},
    "fill constant twice as far": {"times": 2.0},
    "fill constant 4 times as far": {"times": 4.0},
    "fill noise": {"fill": "noise"},
    "heads mean": {"heads": "mean"},
    "ratio 0.2": {"ratio": 0.2},
    "ratio 0.6": {"ratio": 0.6},
    "ratio 0.75": {"ratio": 0.75},
    "patch 8": {"patch": 8},
    "no augmentation": {"augmentation": False},
    "no contrast": {"contrast": 0.0},
    "region level 5 times": {"region_level": 5.0},
}
IN_3D = ("before", "after")
TABLE = {
    "number_accuracy": "number right",
    "number_guess": "by guessing",
    "number_within_one": "at most one off",
    "within_one_guess": "by guessing",
    "location_accuracy": "location, balanced accuracy",
    "masked_error_share": "masked error, share of guessing",
    "unchanged": "masked patches left as they were",
}
COLUMNS = (
    *(*KEY, "cpu_seconds", "number_accuracy", "number_within_one", "number_guess", "within_one_guess"),
    *("location_accuracy", "number_share", "location_share", "masked_error_share", "contrast_share", "unchanged"),
)


class MeanHeads(HybridMIM):
    """HybridMIM with the earlier heads, which see the mean of a sub-volume's bottleneck voxels."""

    def __init__(self, network: torch.nn.Module, grid: MaskGrid, **settings: Any) -> None:
        super().__init__(network, grid, **settings)
        self.bottleneck = self.backbone.channels(network)[1]
        self.number_head = torch.nn.Linear(self.bottleneck, grid.num_patches + 1)
        self.location_head = torch.nn.Linear(self.bottleneck, grid.num_patches)

    def tokens(self, bottleneck: torch.Tensor) -> torch.Tensor:
        """Return the mean of each sub-volume, (B, S, C)."""
        return super().tokens(bottleneck).unflatten(-1, (self.bottleneck, -1)).mean(-1)


def geometry(data: str, backbone: str, dims: int) -> tuple[list[int], int, int]:
    """Return the sizes of crop, sub-volume and patch in voxels, which are smaller for the hippocampus in 3D."""
    if data == "hippocampus" and dims == 3:
        return ([32, 48, 32], 16, 8) if backbone == "unet" else ([32, 64, 32], 32, 8)
    return ([96, 96] if dims == 2 else [64, 64, 32]), 32, 16


def network_of(cell: dict[str, Any], channels: int) -> torch.nn.Module:
    """Build a network with the width of the quickstart's or of the bundles'."""
    features, feature_size, depths = WIDTHS[cell["width"]]
    if cell["backbone"] == "unet":
        return BasicUNet(spatial_dims=cell["dims"], in_channels=channels, features=features, dropout=0.1)
    options = {"feature_size": feature_size, "depths": depths, "drop_rate": 0.1, "spatial_dims": cell["dims"]}
    return SwinUNETR(channels, 2, **options)


def prepare(cell: dict[str, Any], folder: str, crop: list[int]) -> tuple[Any, Any, ConfigParser]:
    """Make data sets of training and held-out crops by a bundle's pretrain.json; return them and its parser."""
    name, spacing, modalities = DATA[cell["data"]]
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / f"hybridmim_{name}_segmentation" / "configs" / "pretrain.json"))
    parser["spacing"], parser["crops_per_volume"] = [spacing] * 3, 1
    parser["roi_size"] = crop + [1] * (3 - len(crop))
    if modalities:
        parser["modalities"] = modalities
    images = find_volumes(folder, modalities)
    split = hold_out([str(image) for image in images], 0.3, seed=0)
    fixed, counts = (parser.get_parsed_content(key) for key in ("deterministic_transforms", "crop_counts"))
    drawn = parser.get_parsed_content("train#random_transforms")
    crops = [step for step in drawn if isinstance(step, (CountedCropByPosNegLabeld, SpatialPadd))]
    augmentation = VARIANTS[cell["variant"]].get("augmentation", True)
    datasets = []
    for ids, steps in ((split.training, drawn if augmentation else crops), (split.validation, crops)):
        items = [{"image": image, "volume": number} for number, image in enumerate(images) if str(image) in ids]
        datasets.append(make_dataset(items, Compose([*fixed, counts, *steps]), "memory"))
    return datasets[0], datasets[1], parser


def run(cell: dict[str, Any], folder: str, batch_size: int) -> dict[str, Any]:
    """Pre-train and measure one cell; return its row of the table."""
    torch.set_num_threads(1)
    variant, dims, steps = VARIANTS[cell["variant"]], cell["dims"], cell["steps"]
    crop, subvolume, patch = geometry(cell["data"], cell["backbone"], dims)
    training, held_out, parser = prepare(cell, folder, crop)
    value = variant.get("value", parser["fill_value"])
    ratio, grid = variant.get("ratio", parser["mask_ratio"]), MaskGrid(crop, subvolume, variant.get("patch", patch))
    torch.manual_seed(cell["seed"])
    channels = len(DATA[cell["data"]][2] or "1")
    model = {"mean": MeanHeads, "place": HybridMIM}[variant.get("heads", "place")](
        network_of(cell, channels),
        grid,
        mask_fill=variant.get("fill", parser["mask_fill"]),
        fill_value=parser["fill_value"] * variant["times"] if "times" in variant else value,
        output_activation=parser["model"]["output_activation"],
    )
    set_execution(model.network, "cpu", keep_freed_memory=True)
    weight = parser["number_weight"] * variant.get("region_level", 1.0)
    contrast = variant.get("contrast", parser["contrast_weight"])
    loss = HybridMIMLoss(1.0, weight, weight, weight / 10, contrast, same_volume_negatives=True)
    optimizer = torch.optim.AdamW(decay_groups(model, 1e-3), lr=cell["learning_rate"])
    schedule = WarmupCosineSchedule(optimizer, steps // 10, steps)
    guesses = guessing(grid, ratio, "hierarchical", batch_size, same_volume_negatives=True)
    started, unchanged, contrasts = time.process_time(), [], []
    for batch in SeededLoader(training, batch_size, cell["seed"], steps=steps):
        x = flat(batch["image"], dims)
        mask, region = sample_mask(grid, len(x), ratio), choose_region(grid)
        outputs = model(x, mask, region)
        terms = loss(outputs, x, mask, region)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        schedule.step()
        unchanged.append(float(unchanged_share(x, outputs["masked"], mask, grid)))
        contrasts.append(float(terms["contrast"]))
    row = {**cell, "cpu_seconds": round(time.process_time() - started, 1)}
    row |= {"number_guess": guesses["number_accuracy"], "within_one_guess": guesses["number_within_one"]}
    late = contrasts[-max(1, steps // 10) :]
    row |= {"contrast_share": sum(late) / len(late) / guesses["contrast"], "unchanged": sum(unchanged) / steps}
    return row | measure(model.eval(), held_out, grid, ratio, guesses)


@torch.no_grad()
def measure(
    model: HybridMIM, held_out: Any, grid: MaskGrid, ratio: float, guesses: dict[str, float], batches: int = 8
) -> dict[str, float]:
    """Measure a model on held-out crops; all variants with the same mask ratio share the masks."""
    generator, region = torch.Generator().manual_seed(0), full_region(grid)
    sums: dict[str, float] = {}
    for batch in SeededLoader(held_out, 8, seed=0, steps=batches):
        x = flat(batch["image"], len(grid.image_size))
        mask = sample_mask(grid, len(x), ratio, generator=generator)
        outputs = model(x, mask, region)
        error = masked_squared_error(outputs["reconstruction"], x, expand_mask(mask, grid)).mean()
        figures = {**perception_figures(outputs, mask), "error": error, "guess": visible_mean_error(x, mask, region)}
        figures["number_share"] = number_loss(outputs["number"], mask) / guesses["number"]
        figures["location_share"] = location_loss(outputs["location"], mask) / guesses["location"]
        for name, figure in figures.items():
            sums[name] = sums.get(name, 0.0) + float(figure) / batches
    sums["masked_error_share"] = sums.pop("error") / sums.pop("guess")
    return sums


def flat(image: torch.Tensor, dims: int) -> torch.Tensor:
    """Return crops (B, C, *crop), in 2D without the axis of one voxel."""
    return torch.as_tensor(image) if dims == 3 else torch.as_tensor(image).squeeze(-1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, metavar="KIND=FOLDER", help=f"of {', '.join(DATA)}")
    parser.add_argument("--dims", type=int, default=2, choices=(2, 3))
    parser.add_argument("--variants", nargs="+", help=f"default: all in 2D, {' and '.join(IN_3D)} in 3D")
    parser.add_argument("--backbones", nargs="+", default=["unet", "swinunetr"], choices=["unet", "swinunetr"])
    parser.add_argument("--width", default="small", choices=list(WIDTHS))
    parser.add_argument("--learning_rate", type=float, help=f"default: {RATES}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "region_level.csv")
    options = parser.parse_args()
    folders = dict(pair.split("=", 1) for pair in options.data)
    variants = options.variants or (list(VARIANTS) if options.dims == 2 else list(IN_3D))
    unknown = sorted({*folders} - {*DATA} | {*variants} - {*VARIANTS})
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    done = {tuple(row[name] for name in KEY) for row in read_rows(options.output)}
    cells = [
        {
            **{"dims": options.dims, "data": data, "backbone": backbone, "width": options.width},
            **{"learning_rate": options.learning_rate or RATES[backbone], "steps": options.steps},
            **{"variant": variant, "seed": seed},
        }
        for seed in range(options.seeds)
        for data in folders
        for backbone in options.backbones
        for variant in variants
    ]
    jobs = [
        (cell, folders[cell["data"]], options.batch_size)
        for cell in cells
        if tuple(str(cell[name]) for name in KEY) not in done
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context, max_tasks_per_child=8) as pool:
        for future in as_completed([pool.submit(run, *job) for job in jobs]):
            row = future.result()
            add_rows(options.output, [{name: _rounded(row[name]) for name in COLUMNS}])
            print(json.dumps(row), flush=True)
    write_table(options.output)


def write_table(path: Path) -> None:
    """Write the means over the seeds as a Markdown table beside the CSV file."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in read_rows(path):
        groups.setdefault(tuple(row[name] for name in KEY[:-1]), []).append(row)
    lines = [f"| {' | '.join(('', *TABLE.values(), 'seeds'))} |", "|---" * (len(TABLE) + 2) + "|"]
    order = list(VARIANTS)
    for key, rows in sorted(groups.items(), key=lambda item: (*item[0][:-1], order.index(item[0][-1]))):
        dims, data, backbone, width, rate, steps, variant = key
        means = [f"{statistics.mean(float(row[name]) for row in rows):.3f}" for name in TABLE]
        what = f"{dims}D {data}, {backbone} ({width}, {rate}, {steps} steps): {variant}"
        lines.append(f"| {what} | {' | '.join(means)} | {len(rows)} |")
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
