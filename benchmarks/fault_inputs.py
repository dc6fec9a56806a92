# SPDX-License-Identifier: Apache-2.0

"""Faults in the inputs of a run, that is in folders, images and files; part of faults.py."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from fault_runs import Row, Run

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "shared"))

from dicom_series import write_series  # noqa: E402

__all__ = ["ckpt_dir", "dicom_series", "mutated_files", "odd_images", "strange_cases"]


def ckpt_dir(work: Path) -> Row:
    """Name folders for the weights that cannot be written."""
    told = []
    for name in ("file", "read_only"):
        run = Run(work, "train", f"ckpt_dir_{name}")
        run.knobs["ckpt_dir"] = work / "a_file" if name == "file" else Path("/proc/models")
        (work / "a_file").touch()
        told.append(run.finish() == 1 and "error: ckpt_dir must be a folder that can be written" in run.text())
        told[-1] &= not run.checkpoints() and "Traceback" not in run.text()
    what = f"{sum(told)} of 2 told by name before the first step"
    return Row(
        "ckpt_dir", "train", "a file, or nothing can be written there", what, "nothing" if all(told) else "a run"
    )


def dicom_series(work: Path) -> Row:
    """Pre-train on a DICOM series that is whole, has a slice twice, or lacks two slices."""
    image = nib.Nifti1Image.from_filename(sorted((work / "data" / "unlabelled").glob("*.nii.gz"))[0])
    voxels = np.asarray(image.dataobj).astype(np.int16)
    ends = {}
    for fault in ("whole", "copied", "missing"):
        run = Run(work, "pretrain", f"dicom_{fault}", epochs=1)
        series = work / f"dicom_{fault}" / "series"
        write_series(series, voxels)
        slices = sorted(series.iterdir())
        if fault == "copied":
            shutil.copy(slices[5], series / "again.dcm")
        if fault == "missing":
            slices[5].unlink()
            slices[9].unlink()
        run.knobs["unlabelled_dirs"] = series.parent
        code, text = run.finish(), run.text()
        told = re.search(rf"cannot read the image {series}: ValueError: (.*)", text)
        ends[fault] = f"exit code {code}" + (f", {told[1].partition(': ')[0]}" if told else "")
    fine = ends["whole"] == "exit code 0" and all(
        ends[fault].startswith("exit code 1, ") and ".dcm" in ends[fault] for fault in ("copied", "missing")
    )
    what = "; ".join(f"{fault}: {end}" for fault, end in ends.items())
    return Row("DICOM series", "pretrain", "as it is, a slice copied, two slices missing", what,
               "nothing" if fine else "a scrambled volume")  # fmt: skip


def odd_images(work: Path) -> Row:
    """Segment a folder in which two of six images cannot be used, and into a folder that cannot be written."""
    trained = Run(work, "train", "odd_images", epochs=1)
    if trained.finish():
        raise RuntimeError(trained.text()[-3000:])
    folder = work / "odd_images"
    shutil.copytree(work / "data" / "Task09_Spleen" / "imagesTr", folder)
    first, second, *good = sorted(folder.glob("*.nii.gz"))
    image = nib.Nifti1Image.from_filename(first)
    nib.save(nib.Nifti1Image(np.stack([np.asarray(image.dataobj)] * 2, -1), image.affine), first)
    second.write_bytes(second.read_bytes()[:1000])
    done = [_segment(trained, folder, output) for output in (work / "masks", Path("/proc/masks"))]
    named = sum(f"\n  {path}" in done[0].stderr for path in (first, second))
    masks = len(list((work / "masks").glob("*_seg.nii.gz")))
    refused = "error: output_dir must be a folder that can be written, got /proc/masks" in done[1].stderr
    what = f"exit code {done[0].returncode}, {masks} masks, {named} images named; "
    what += f"exit code {done[1].returncode}, output_dir {'named' if refused else 'NOT named'}"
    fine = masks == len(good) and named == 2 and refused and {run.returncode for run in done} == {1}
    how = f"{len(good) + 2} images, one of two channels, one cut off; an output_dir that cannot be written"
    return Row("odd images", "inference, checked_inference", how, what, "nothing" if fine else "masks")


def _segment(trained: Run, images: Path, output: Path) -> subprocess.CompletedProcess[str]:
    configs = [str(trained.bundle / "configs" / f"{name}.json") for name in ("inference", "checked_inference")]
    same = ("bundle_root", "ckpt_dir", "spacing", "roi_size", "network_def#features", "device")
    knobs = {"image_dir": images, "output_dir": output, **{name: trained.knobs[name] for name in same}}
    words = [word for key, value in knobs.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd="/")


def mutated_files() -> Row:
    """Read hundreds of damaged files, see mutated_files.py."""
    script = [sys.executable, str(ROOT / "benchmarks" / "mutated_files.py")]
    done = subprocess.run(script, capture_output=True, text=True)
    what = done.stderr[-200:]
    if done.stdout.strip():  # the last line of the table, for all kinds
        _, total, accepted, refused, *others, slowest, _ = done.stdout.splitlines()[-1].strip("| ").split(" | ")
        what = f"{accepted} of {total} accepted, {refused} refused by name, {sum(map(int, others))} otherwise, "
        what += f"{slowest} s at most"
    return Row("mutated files", "reading", "NIfTI, DICOM, MetaImage, NRRD, JSON, weights, tar", what,
               "nothing" if done.returncode == 0 else "see mutated_files.py")  # fmt: skip


def strange_cases(work: Path) -> Row:
    """Check intact files with wrong content, see strange_cases.py."""
    script = [sys.executable, str(ROOT / "benchmarks" / "strange_cases.py"), "--output", str(work / "cases.md")]
    done = subprocess.run(script, capture_output=True, text=True)
    found = re.search(r"\d+ cases: .*? ok", done.stdout)
    what = found[0] if found else done.stderr[-200:]
    return Row("strange cases", "check", "units, HU, affines, labels, dataset.json", what,
               "nothing" if done.returncode == 0 else "see strange_cases.py")  # fmt: skip
