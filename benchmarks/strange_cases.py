# SPDX-License-Identifier: Apache-2.0

"""Run ``check`` on cases that are wrong but look real: it must refuse them, call them unusual, or accept them.

    python benchmarks/strange_cases.py                        # made from phantoms, a minute
    python benchmarks/strange_cases.py --dataset_dir FOLDER   # from two cases of a folder in MSD's layout

Each case is the second of two in a folder of MSD Spleen. The expected verdict is ``ok`` for cases that cannot be told
from good ones. The script writes ``results/strange_cases.md`` and ends with status 1 if a verdict differs from the
expected one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from hybridmim_components.data.case_table import case_rows
from hybridmim_components.data.layouts import msd
from hybridmim_components.phantoms import write_msd_spleen

RESULTS = Path(__file__).parent / "results"
PIXDIM, CODES, QUATERNION, SFORM = 76, 252, 256, 280  # byte offsets in a NIfTI-1 header; CODES: qform and sform
NAN = float("nan")
VERDICTS = ("refused", "unusual", "ok")


class Files(NamedTuple):
    """Folder in MSD's layout, and the case in it to change."""

    root: Path
    image: Path
    label: Path


class Strange(NamedTuple):
    """Change of a case, and the verdict that it should get."""

    what: str
    expected: str
    change: Callable[[Files], None]


def voxels(change: Callable[[np.ndarray], np.ndarray], name: str = "image") -> Callable[[Files], None]:
    """Change the voxels of the image or the label."""

    def apply(files: Files) -> None:
        path = getattr(files, name)
        image = nib.Nifti1Image.from_filename(path)
        nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)

    return apply


def affine(change: Callable[[np.ndarray], np.ndarray], *names: str) -> Callable[[Files], None]:
    """Change the affine of image and label, or of one of them."""

    def apply(files: Files) -> None:
        for path in [getattr(files, name) for name in names or ("image", "label")]:
            image = nib.Nifti1Image.from_filename(path)
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), change(image.affine)), path)

    return apply


def header(offset: int, layout: str, *values: float) -> Callable[[Files], None]:
    """Write values into the header of image and label."""

    def apply(files: Files) -> None:
        for path in (files.image, files.label):
            content = bytearray(gzip.decompress(path.read_bytes()))
            struct.pack_into(f"<{layout}", content, offset, *values)
            path.write_bytes(gzip.compress(bytes(content), 1))

    return apply


def both(*changes: Callable[[Files], None]) -> Callable[[Files], None]:
    """Make several changes, one after the other."""

    def apply(files: Files) -> None:
        for change in changes:
            change(files)

    return apply


def other_qform(files: Files) -> None:
    """Set a qform that calls left what the sform calls right."""
    for path in (files.image, files.label):
        image = nib.Nifti1Image.from_filename(path)
        image.set_sform(image.affine, 1)
        image.set_qform(image.affine @ np.diag([-1, 1, 1, 1]), 1)
        nib.save(image, path)


def json_cut_off(files: Files) -> None:
    """Write an incomplete dataset.json, as an interrupted write leaves it."""
    (files.root / "dataset.json").write_text('{"name": "Sp')


def table(**entries: object) -> Callable[[Files], None]:
    """Change entries of dataset.json."""

    def apply(files: Files) -> None:
        path = files.root / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return apply


def scale(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """Scale the spacing."""
    return lambda found: found @ np.diag([factor, factor, factor, 1])


def sheared(found: np.ndarray) -> np.ndarray:
    """Shear an affine, so that slices move along the second axis."""
    shear = np.eye(4)
    shear[1, 2] = 0.3
    return found @ shear


def half_empty(found: np.ndarray) -> np.ndarray:
    """Set the upper half of the slices to 0."""
    return np.where(np.arange(found.shape[2]) < found.shape[2] // 2, found, 0).astype(found.dtype)


def window(low: float, high: float, top: float) -> Callable[[np.ndarray], np.ndarray]:
    """Clip HU to low..high, and scale them to 0..top."""
    return lambda found: ((np.clip(found, low, high) - low) / (high - low) * top).astype(np.float32)


def cut_off(files: Files) -> None:
    """Keep only half of the image file."""
    files.image.write_bytes(files.image.read_bytes()[: files.image.stat().st_size // 2])


def copy_of_the_first(files: Files) -> None:
    """Replace image and label by those of the first case."""
    first = msd.read(files.root).cases[0]
    shutil.copy(first["image"], files.image)
    shutil.copy(first["label"], files.label)


SFORM_ALONE = both(header(CODES, "2h", 0, 1), header(QUATERNION, "3f", 0, 0, 0))
OTHER_PIXDIM = header(PIXDIM, "4f", 1, 1, 1, 1)
LIVER = {"0": "background", "1": "liver"}
STRANGE = [
    Strange("nothing", "ok", lambda files: None),
    Strange("spacing in metres", "refused", affine(scale(1e-3))),
    Strange("spacing in micrometres", "refused", affine(scale(1e3))),
    Strange("spacing in centimetres", "unusual", affine(scale(0.05))),
    Strange("spacing ten times too large", "unusual", affine(scale(10))),
    Strange("sform of NaN, no qform", "refused", both(SFORM_ALONE, header(SFORM, "12f", *[NAN] * 12))),
    Strange("sform of zeros, no qform", "refused", both(SFORM_ALONE, header(SFORM, "12f", *[0] * 12))),
    Strange(
        "sform of other spacing than pixdim, no qform", "refused", both(SFORM_ALONE, header(PIXDIM, "4f", 1, 1, 1, 1))
    ),
    Strange("sform of NaN, qform", "unusual", both(other_qform, header(SFORM, "12f", *[NAN] * 12))),
    Strange("neither sform nor qform", "unusual", header(CODES, "2h", 0, 0)),
    Strange("sform and qform call other sides left", "unusual", other_qform),
    Strange("sheared axes (a tilted gantry, as some converters keep it)", "unusual", affine(sheared)),
    Strange("label stored with another affine", "refused", affine(scale(1.1), "label")),
    Strange("label resampled to other voxels", "refused", voxels(lambda found: found[::2], "label")),
    Strange("HU with 1024 added", "unusual", voxels(lambda found: found + 1024)),
    Strange("HU less 1024", "unusual", voxels(lambda found: found - 1024)),
    Strange("HU with 1024 added, padding of -2000", "unusual", voxels(lambda f: np.where(f < -990, -2000, f + 1024))),
    Strange("HU of the other sign", "unusual", voxels(lambda found: -found)),
    Strange("HU scaled to 0..1", "unusual", voxels(window(-1024, 1024, 1))),
    Strange("HU windowed to 0..255", "unusual", voxels(window(-160, 240, 255))),
    Strange("HU clipped to -57..164", "unusual", voxels(lambda found: np.clip(found, -57, 164))),
    Strange("one value in every voxel", "refused", voxels(lambda found: np.full_like(found, -1024))),
    Strange("NaN in one voxel", "refused", voxels(lambda f: np.where(np.arange(f.size).reshape(f.shape), f, NAN))),
    Strange("half of the slices 0, as a broken copy leaves them", "unusual", voxels(half_empty)),
    Strange("file cut off in the middle", "refused", cut_off),
    Strange("4D, three times", "refused", voxels(lambda found: np.stack([found] * 3, axis=-1))),
    Strange("one slice without a third axis", "refused", voxels(lambda found: found[..., 0])),
    Strange("three slices", "unusual", both(*(voxels(lambda f: f[..., 10:13], name) for name in ("image", "label")))),
    Strange("label without the organ", "unusual", voxels(np.zeros_like, "label")),
    Strange("label of 255 instead of 1", "refused", voxels(lambda f: (f * 255).astype(np.uint8), "label")),
    Strange("label of fractions", "refused", voxels(lambda found: found * np.float32(0.5), "label")),
    Strange("label with organ and background exchanged", "unusual", voxels(lambda found: 1 - found, "label")),
    Strange("image of another case, label too", "unusual", copy_of_the_first),
    Strange("no label", "refused", lambda files: files.label.unlink()),
    Strange("dataset.json cut off", "unusual", json_cut_off),
    Strange("dataset.json of MSD Liver", "refused", table(name="Liver", labels={**LIVER, "2": "cancer"})),
    Strange("dataset.json of another organ", "unusual", table(name="Liver", labels=LIVER)),
    Strange("dataset.json names cases that are missing", "unusual", table(training=[{"image": "./imagesTr/a.nii"}])),
    Strange("image mirrored, label not", "ok", voxels(lambda found: found[::-1])),
    Strange("image and label mirrored", "ok", both(*(voxels(lambda f: f[::-1], name) for name in ("image", "label")))),
]


def verdict_of(root: Path) -> tuple[str, str]:
    """Return the worst verdict of ``check`` on a folder, and its text without the folder's path."""
    rows = list(case_rows("msd_spleen", root))
    problems = [row.problem for row in rows if row.problem]
    doubts = [doubt for row in rows for doubt in row.doubts]
    verdict = "refused" if problems else "unusual" if doubts else "ok"
    return verdict, "; ".join(problems or doubts).replace(f"{root}/", "").replace("\n", " ")


def judge(strange: Strange, base: Path, work: Path) -> tuple[str, str]:
    """Change the second case of a copy of ``base``, and check the folder."""
    root = work / "Task09_Spleen"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(base, root)
    case = msd.read(root).cases[1]
    strange.change(Files(root, Path(case["image"]), Path(case["label"])))
    return verdict_of(root)


def copy_two_cases(dataset_dir: Path, root: Path) -> None:
    """Copy the first two cases of a folder into another one, in MSD's layout."""
    cases = msd.read(dataset_dir).cases[:2]
    if len(cases) < 2:
        raise SystemExit(f"dataset_dir must hold two cases, got {len(cases)} in {dataset_dir}")
    for name, folder in (("image", "imagesTr"), ("label", "labelsTr")):
        (root / folder).mkdir(parents=True)
        for case in cases:
            image = nib.Nifti1Image.from_filename(case[name])
            nib.save(
                nib.Nifti1Image(np.asarray(image.dataobj), image.affine), root / folder / f"{case['case_id']}.nii.gz"
            )
    labels = {"labels": {"0": "background", "1": "spleen"}}
    training = [{"image": f"./imagesTr/{case['case_id']}.nii.gz"} for case in cases]
    (root / "dataset.json").write_text(json.dumps({"name": "Spleen", "training": training, **labels}))


def report(rows: list[tuple[Strange, str, str]], source: str) -> str:
    """Format the table as Markdown."""
    lines = [
        "# What `check` says of strange cases",
        "",
        f"`python benchmarks/strange_cases.py`, made from {source}.",
        "",
    ]
    lines += ["| what was done to a case | verdict | what `check` says |", "|---|---|---|"]
    for strange, verdict, words in rows:
        wrong = "" if verdict == strange.expected else f" (expected: {strange.expected})"
        lines.append(f"| {strange.what} | {verdict}{wrong} | {words.replace('|', '/')} |")
    counts = ", ".join(f"{sum(v == verdict for _, v, _ in rows)} {verdict}" for verdict in VERDICTS)
    return "\n".join([*lines, "", f"{len(rows)} cases: {counts}. What is only mirrored looks like any other case.", ""])


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--dataset_dir", type=Path, help="folder in MSD's layout; default: phantoms")
    parser.add_argument("--output", type=Path, default=RESULTS / "strange_cases.md")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        work, base = Path(folder), Path(folder) / "base"
        if options.dataset_dir:
            copy_two_cases(options.dataset_dir, base)
        else:
            base = write_msd_spleen(base, 2, 0)
        rows = [(strange, *judge(strange, base, work)) for strange in STRANGE]
    text = report(rows, "two cases of a folder" if options.dataset_dir else "phantoms")
    options.output.write_text(text, encoding="utf-8")
    print(text)
    return int(any(verdict != strange.expected for strange, verdict, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
