# SPDX-License-Identifier: Apache-2.0

"""One picture and one table of a whole run: pre-training, fine-tuning, evaluation and inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D

from hybridmim_components.data.datasets import label_names, read_cases
from hybridmim_components.data.volumes import image_files
from hybridmim_components.report.curves import smooth
from hybridmim_components.report.sections import HELD_OUT
from hybridmim_components.report.verdicts import case_scores
from hybridmim_components.system.files import Row, read_table
from hybridmim_components.workflow.learning import start_and_end, terms_of

__all__ = ["draw_overview", "summary"]

Labels = dict[int, str]
_TITLES = {
    "unseen": "Segmentation of test cases: seen by no training, and their Dice chose nothing",
    "validation": "Segmentation of held-out cases: not trained on, but their Dice chose the best epoch",
    "pretraining": "Segmentation of cases that pre-training has seen",
    "training": "Segmentation of the training cases themselves",
    "unknown": "Segmentation of cases of which nobody knows whether they were trained on",
}


def draw_overview(
    run_dir: str | Path,
    dataset: str,
    dataset_dir: str | Path,
    intensity_range: Sequence[float] | None = None,
    title: str = "",
    modalities: Sequence[str] | None = None,
) -> Path:
    """Draw ``overview.png``: reconstruction, learning curves, and segmentation against truth.

    Args:
        run_dir: folder with ``pretrain``, ``train`` and ``evaluate``, the output folders of the three configs.
        dataset: name of the data set.
        dataset_dir: folder of the data set, for images and labels of the evaluated cases.
        intensity_range: display window of the images, in HU for CT; None: 1st to 99th percentile of what is drawn.
        title: headline.
        modalities: sequences that were used, for a data set that has several. The first one is drawn.

    Returns:
        Path of the picture.

    Raises:
        FileNotFoundError: when a step has not run.

    Example:
        >>> draw_overview("run", "msd_spleen", "data")  # before the first step has run
        Traceback (most recent call last):
        FileNotFoundError: no previews in run/pretrain: run configs/pretrain.json first
    """
    run = Path(run_dir)
    previews = sorted((run / "pretrain" / "previews").glob("epoch_*.png"))
    if not previews:
        raise FileNotFoundError(f"no previews in {run / 'pretrain'}: run configs/pretrain.json first")
    evaluated = _evaluated_cases(run / "evaluate", dataset, dataset_dir, modalities)
    labels = {value: name for value, name in label_names(dataset, dataset_dir).items() if value}
    figure = Figure(figsize=(15, 15.5 if len(labels) == 1 else 19), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title or "HybridMIM: pre-training, fine-tuning, evaluation", fontsize=16)
    parts: Any = figure.subfigures(3, 1, height_ratios=[1.15, 0.75, 1 if len(labels) == 1 else 1.7])
    top, middle, bottom = parts
    axis = top.subplots()
    axis.imshow(imread(previews[-1]))
    axis.set_axis_off()
    top.suptitle("Pre-training on unlabelled volumes: masked input and reconstruction of held-out volumes")
    _draw_curves(middle, run)
    _draw_cases(bottom, evaluated[:4], intensity_range, labels)
    target = run / "overview.png"
    figure.savefig(target, dpi=75)
    return target


def summary(run_dir: str | Path) -> str:
    r"""Return a table of a run as text: start and end of each loss, Dice and HD95 per class, and the path of each file.

    Starts and ends are means over the first and the last tenth of the epochs, since single epochs are noisy. A share of
    guessing is a loss divided by the loss of a guess that ignores the image. 1 means that nothing was learnt.

    Example:
        >>> from hybridmim_components.system.files import write_text
        >>> write_text("run/pretrain/training.csv", "train_loss,number,number_share\n2.0,1.9,0.97\n1.2,0.8,0.41")
        >>> write_text("run/pretrain/validation.csv", "val_masked_error_share\n0.8\n0.1")
        >>> write_text("run/train/training.csv", "train_loss\n1.5\n0.6")
        >>> scores = "figures,class,dice,hd95_mm,cases\nunseen,spleen,0.93,2.5,9"
        >>> write_text("run/evaluate/evaluation_summary.csv", scores)
        >>> print(summary("run"))
                                                                 start       end
        pre-training, train_loss                                2.0000    1.2000
        pre-training, number, share of guessing                 0.9700    0.4100
        held-out masked error, share of guessing                0.8000    0.1000
        fine-tuning, train_loss                                 1.5000    0.6000
        evaluation                                                Dice   HD95 mm   cases
        spleen (unseen)                                         0.9300      2.50       9
    """
    run = Path(run_dir)
    pretraining, validation = (read_table(run / "pretrain" / f"{n}.csv") for n in ("training", "validation"))
    training = read_table(run / "train" / "training.csv")
    rows = [("pre-training, train_loss", *start_and_end(pretraining, "train_loss"))]
    rows += [
        (f"pre-training, {t}, share of guessing", *start_and_end(pretraining, f"{t}_share"))
        for t in terms_of(pretraining)
    ]
    rows += [
        (f"held-out {text}", *start_and_end(validation, name))
        for name, text in HELD_OUT.items()
        if name in validation[0]
    ]
    rows.append(("fine-tuning, train_loss", *start_and_end(training, "train_loss")))
    lines = [f"{'':52s}{'start':>10s}{'end':>10s}", *(f"{n:52s}{a:10.4f}{b:10.4f}" for n, a, b in rows), ""]
    lines.append(f"{'evaluation':52s}{'Dice':>10s}{'HD95 mm':>10s}{'cases':>8s}")
    for row in read_table(run / "evaluate" / "evaluation_summary.csv"):
        name = f"{row['class']} ({row['figures']})"
        lines.append(f"{name:52s}{_number(row['dice']):>10s}{_number(row['hd95_mm'], 2):>10s}{row['cases']:>8s}")
    files = {
        "pre-trained weights": "models/pretrained/model.pt",
        "fine-tuned weights": "models/model.pt",
        "reconstruction previews": "pretrain/previews",
        "figures per case": "evaluate/evaluation_cases.csv",
        "masks of held-out cases": "evaluate/masks",
        "masks of new images": "inference",
        "picture": "overview.png",
    }
    lines += ["", *(f"{name:52s}{run / place}" for name, place in files.items() if (run / place).exists())]
    return "\n".join(lines)


def _number(text: str, digits: int = 4) -> str:
    return f"{float(text):.{digits}f}" if text else "-"


def _draw_curves(figure: Any, run: Path) -> None:
    pretraining, validation = (read_table(run / "pretrain" / f"{n}.csv") for n in ("training", "validation"))
    training, dice = (read_table(run / "train" / f"{n}.csv") for n in ("training", "validation"))
    left, middle, right = figure.subplots(1, 3)
    # without consistency: two heads that guess agree with each other, so a low value alone says nothing
    for term in [term for term in terms_of(pretraining) if term != "consistency"]:
        left.plot(_epochs(pretraining), smooth([float(row[f"{term}_share"]) for row in pretraining]), label=term)
    left.axhline(1, color="black", linestyle="--", linewidth=1, label="as good as guessing")
    left.set_ylim(bottom=0)
    left.set_title("pre-training: losses as shares of guessing")
    middle.plot(_epochs(validation), [float(r["val_masked_error"]) for r in validation], "o-", color="tab:blue")
    middle.set_title("pre-training: masked error of held-out volumes")
    right.plot(_epochs(training), smooth([float(r["train_loss"]) for r in training]), label="training loss")
    right.plot(_epochs(dice), [float(r["val_mean_dice"]) for r in dice], "o-", label="validation Dice")
    right.set_title("fine-tuning")
    left.legend()
    right.legend()
    for axis in (left, middle, right):
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)


def _epochs(rows: Sequence[Row]) -> list[int]:
    return [int(row["epoch"]) for row in rows]


def _evaluated_cases(
    evaluate_dir: Path, dataset: str, dataset_dir: str | Path, modalities: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Return the cases that have a mask, with the mean Dice of the classes that their truth contains."""
    cases = {case["case_id"]: case for case in read_cases(dataset, dataset_dir, modalities)}
    rows = read_table(evaluate_dir / "evaluation_cases.csv")
    scores = case_scores(rows)
    found: list[dict[str, Any]] = []
    for case_id in dict.fromkeys(row["case"] for row in rows):
        mask = evaluate_dir / "masks" / f"{case_id}_seg.nii.gz"
        if mask.is_file() and case_id in cases:
            case = scores[case_id]
            name = case.rows[0]["class"] if len(case.rows) == 1 else "mean"
            found.append({**cases[case_id], "mask": mask, "dice": case.dice, "class": name, "figures": case.group})
    if not found:
        raise FileNotFoundError(f"no masks of cases of {dataset_dir} in {evaluate_dir / 'masks'}")
    return found


def _draw_cases(figure: Any, cases: Sequence[dict[str, Any]], window: Sequence[float] | None, names: Labels) -> None:
    """Draw truth and prediction: outlines if there is one class, else a row for each with a colour per class."""
    one_class = len(names) == 1
    axes = figure.subplots(1 if one_class else 2, len(cases), squeeze=False)
    for column, case in zip(axes.T, cases, strict=True):
        planes, aspect = _planes(case)
        low, high = window if window is not None else np.percentile(planes[0][planes[0] != planes[0].min()], (1, 99))
        for axis in column:
            axis.imshow(planes[0], cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
            axis.set_axis_off()
        if one_class:
            for plane, colour in zip(planes[1:], ("lime", "red"), strict=True):
                if plane.any():
                    column[0].contour(plane > 0, levels=[0.5], colors=colour, linewidths=1.5)
        else:
            for axis, plane in zip(column, planes[1:], strict=True):
                axis.imshow(_coloured(plane, names), origin="lower", aspect=aspect, interpolation="nearest")
        column[0].set_title(f"{case['case_id']}: {case['class']} Dice {case['dice']:.3f}")
    _legend(figure, names)
    if not one_class:
        for text, height in (("truth", 0.72), ("prediction", 0.28)):
            figure.text(0.005, height, text, rotation=90, va="center")
    groups = {case["figures"] for case in cases}
    figure.suptitle(_TITLES[groups.pop()] if len(groups) == 1 else "Segmentation of cases, seen and unseen")


def _planes(case: Mapping[str, Any]) -> tuple[list[np.ndarray], float]:
    """Return one axial slice of image, truth and prediction, and the ratio of its voxels' sides.

    It is the slice with most of the truth.
    """
    image, truth, mask = (_canonical(volume) for volume in (image_files(case["image"])[0], case["label"], case["mask"]))
    # all classes weigh the same, or a slice full of liver could be chosen that shows no tumour
    labels = np.asarray(truth.dataobj)
    shares = [(labels == v).sum((0, 1)) / (labels == v).sum() for v in np.unique(labels) if v]
    depth = int(np.argmax(np.sum(shares, 0))) if shares else labels.shape[2] // 2
    spacing = image.header.get_zooms()
    volumes = (np.asarray(v.dataobj)[:, :, depth] for v in (image, truth, mask))
    # radiological convention: the patient's right on the left of the picture
    planes = [volume if volume.ndim == 2 else volume[..., 0] for volume in volumes]
    return [np.flip(plane.T, 1) for plane in planes], float(spacing[1] / spacing[0])


def _colours(names: Labels) -> dict[int, Any]:
    colours = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {value: colours(index % colours.N) for index, value in enumerate(names)}


def _coloured(plane: np.ndarray, names: Labels) -> np.ndarray:
    picture = np.zeros((*plane.shape, 4))
    for value, colour in _colours(names).items():
        picture[plane == value] = (*colour[:3], 0.55)
    return picture


def _legend(figure: Any, names: Labels) -> None:
    if len(names) == 1:
        handles = [Line2D([], [], color=c, label=n) for n, c in (("truth", "lime"), ("prediction", "red"))]
    else:
        handles = [Line2D([], [], color=c, linewidth=5, label=names[v]) for v, c in _colours(names).items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(7, len(handles)))


def _canonical(path: str | Path) -> Any:
    return nib.as_closest_canonical(nib.load(path))
