# SPDX-License-Identifier: Apache-2.0

"""Outputs of a run as its steps leave them, of any size, without running anything."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imsave

SHARES = ("partial_region", "number", "location", "consistency", "contrast")
SIZE = (14, 12, 10)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def save(path: Path, values: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 1.0, 1.5, 1.0])), path)
    return str(path)


def write_pretraining(folder: Path, location_share: float = 0.5) -> None:
    shares = {f"{term}_share": 0.5 for term in SHARES} | {"location_share": location_share}
    rows = [{"epoch": epoch, "iteration": epoch, **dict.fromkeys(SHARES, 1.0), **shares} for epoch in (1, 2, 3)]
    write_rows(folder / "training.csv", rows)
    held_out = {"val_masked_error_share": 0.4, "val_number_within_one": 0.8, "val_location_accuracy": 0.6}
    write_rows(folder / "validation.csv", [{"epoch": epoch, "iteration": 1, **held_out} for epoch in (1, 3)])
    (folder / "previews").mkdir()
    for epoch in range(1, 31):
        imsave(folder / "previews" / f"epoch_{epoch:04d}.png", np.full((8, 8, 3), epoch / 31))


def write_fine_tuning(folder: Path) -> None:
    write_rows(folder / "training.csv", [{"epoch": e, "iteration": e, "train_loss": 1 / e} for e in (1, 2, 3)])
    write_rows(folder / "validation.csv", [{"epoch": e, "iteration": 1, "val_mean_dice": e / 10} for e in (1, 3)])


def write_evaluation(
    folder: Path, images: Path, cases: int = 3, classes: int = 2, channels: int = 1, dice: float = 0.5
) -> None:
    """Case 1 is the worst. The prediction of each case misses one slice of the truth."""
    generator = np.random.default_rng(0)
    files: dict[str, Any] = {}
    rows = []
    for number in range(1, cases + 1):
        name = f"case_{number:03d}"
        truth = np.zeros(SIZE, np.uint8)
        for value in range(1, classes + 1):
            truth[3:11, 3:9, value % SIZE[2]] = value
        prediction = truth.copy()
        prediction[3] = 0
        image = generator.normal(100, 10, SIZE) + 100 * (truth > 0)
        paths = [save(images / f"{name}_{channel}.nii.gz", image.astype(np.float32)) for channel in range(channels)]
        files[name] = {"image": paths, "label": save(images / f"{name}_label.nii.gz", truth)}
        save(folder / "masks" / f"{name}_seg.nii.gz", prediction)
        rows += [
            {
                "case": name,
                "class": f"organ {value}",
                "dice": round(dice + number / 1000, 6),
                "hd95_mm": 2.0,
                "label_voxels": int((truth == value).sum()),
                "pred_voxels": int((prediction == value).sum()),
                "flag": "",
                "figures": "validation",
            }
            for value in range(1, classes + 1)
        ]
    write_rows(folder / "evaluation_cases.csv", rows)
    mean = {"class": "mean", "dice": dice, "hd95_mm": 2.0, "cases": cases, "absent_cases": 0, "figures": "validation"}
    write_rows(folder / "evaluation_summary.csv", [mean])
    labels = {str(value): f"organ {value}" for value in range(1, classes + 1)}
    content = {"labels": labels, "hounsfield": False, "cases": files}
    (folder / "evaluation_files.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def whole_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run with its three steps, and return its folder."""

    def write(name: str = "run", location_share: float = 0.5, **evaluation: Any) -> Path:
        folder = tmp_path / name
        write_pretraining(folder / "pretrain", location_share)
        write_fine_tuning(folder / "train")
        write_evaluation(folder / "evaluate", tmp_path / f"{name}_images", **evaluation)
        return folder

    return write
