# SPDX-License-Identifier: Apache-2.0

r"""Try exported bundles in the environments of their users, and write the results to docs/support.md.

    python ci/support_table.py                                        # all, about half an hour on two cores
    python ci/support_table.py --bundles btcv_unet --output my.md     # one

Each bundle is rendered with a small network, exported by ci/export_bundle.py, and then used without the package. The
Model Zoo's checks are run on it. Its own ``scripts`` export it to TorchScript, ONNX and OpenVINO. A real MONAI Label
server segments an image with it, trains it on four labelled images, and segments again. The script ends with status 1
if anything fails.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export_bundle import PHANTOMS, export_bundle
from monai_label.label_server import START, LabelServer, LabelServerError
from monai_label.studies import check_mask, labels_of, write_studies
from small_bundles import NAMES, small_bundle, small_phantoms

from hybridmim_components import __version__

logger = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[1]
WITHOUT_PACKAGE = ROOT / "ci" / "without_package"
ZOO, INFER, TRAIN, AGAIN = "zoo checks", "Label infer", "Label train", "Label infer again"
FORMATS = {
    "TorchScript": ("torchscript", "model.ts"),
    "ONNX": ("onnx", "model.onnx"),
    "OpenVINO": ("openvino", "model.xml"),
}
COLUMNS = (ZOO, INFER, TRAIN, AGAIN, *FORMATS)
Cells = dict[str, str]

TEXT = """# What works where

`python ci/support_table.py` writes this page; do not edit it by hand.

The bundles were exported by `ci/export_bundle.py` and used where `hybridmim_components` cannot be imported. **Their
networks are shrunk** (UNet and DynUNet with 4 to 8 features, SwinUNETR with feature size 12 and one block a stage,
crops of 48^3 and 64^3, voxels of 5 and 6 mm), **their weights are untrained, and all images are phantoms**. The table
shows that the parts fit together. It says nothing about accuracy, memory or speed.

- zoo checks: `ci/check_exported.py` checks files, style, metadata, network, train, evaluate, inference and TorchScript
  as the Model Zoo does, with the zoo's settings of isort, black, flake8 and pre-commit; the zoo's JSON schema of the
  metadata and pytype are not run
- Label: a MONAI Label {monailabel} server with bundles of one data set; infer by the image's id, train one epoch on
  four cases, infer again with the new weights; the masks lie on the image's grid and hold labels of the metadata
- TorchScript, ONNX, OpenVINO: the bundle's own `python -m scripts export`, which compares each file with PyTorch

{table}

Python {python} on {system}, CPU; {versions}; bundles {bundles}.
The server has the versions of `ci/monai_label/requirements.lock`.
"""


def zoo_cells(bundle: Path) -> Cells:
    """Run ``ci/check_exported.py`` on an exported bundle."""
    done = _without_package(str(ROOT / "ci" / "check_exported.py"), str(bundle))
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    if done.returncode == 0:
        return {ZOO: "ok"}
    logger.error("%s", done.stderr)
    names, results = ([cell.strip() for cell in line.strip("|").split("|")][1:] for line in (lines[0], lines[-1]))
    return {ZOO: "; ".join(f"{n}: {r}" for n, r in zip(names, results, strict=False) if r != "ok") or "no result"}


def format_cells(bundle: Path) -> Cells:
    """Export to each format by the command of the exported bundle's README."""
    cells = {}
    for column, (name, file) in FORMATS.items():
        done = _without_package("-m", "scripts", "export", str(bundle), "--format", name, bundle=bundle)
        written = (bundle / "models" / file).is_file()
        cells[column] = "ok" if done.returncode == 0 and written else _last_line(done.stderr)
        if cells[column] != "ok":
            logger.error("%s", done.stderr)
    return cells


def label_cells(dataset: str, bundles: Sequence[Path], work: Path) -> dict[str, Cells]:
    """Serve a data set's bundles with MONAI Label, and use each as an annotator does.

    Args:
        dataset: name of the data set.
        bundles: exported bundles of the data set.
        work: folder for images, server and log; must be new for each call, since training takes all labels in it.

    Returns:
        The cells of each bundle by its name.
    """
    work.mkdir(parents=True)
    labels, alone = write_studies(work / "studies", dataset, small_phantoms(work / "phantoms", dataset, num_training=5))
    names = ",".join(str(bundle) for bundle in bundles)
    arguments = ("--bundles", names, "--studies", str(work / "studies"), "--app", str(work / "app"))
    server = LabelServer(work / "server.log", *arguments, python_path=WITHOUT_PACKAGE)
    try:
        server.wait_until_up()
        for case, label in list(labels.items())[:4]:
            server.save_label(case, label)
        return {bundle.name: _annotate(server, bundle, work, alone) for bundle in bundles}
    except (LabelServerError, OSError) as error:
        logger.error("%s", error)
        return {bundle.name: dict.fromkeys((INFER, TRAIN, AGAIN), _first_line(error)) for bundle in bundles}
    finally:
        server.stop()


def _annotate(server: LabelServer, bundle: Path, work: Path, case: str) -> Cells:
    weights = work / "app" / "model" / bundle.name / "models" / "model.pt"

    def infer() -> None:
        mask, labels = work / f"{bundle.name}.nii.gz", labels_of(bundle)
        answer = server.infer(bundle.name, mask, image=case)
        if answer["label_names"] != labels:
            raise ValueError(f"the labels must be those of the metadata, got {answer['label_names']}")
        check_mask(mask, work / "studies" / f"{case}.nii.gz", labels)

    def train() -> None:
        before = weights.read_bytes()
        task = server.train(bundle.name, max_epochs=1, train_batch_size=1, val_split=0.25)
        if task["status"] != "DONE":
            raise LabelServerError(f"training ended with status {task['status']}: {server.text()}")
        if weights.read_bytes() == before:
            raise ValueError("training must change the weights, they are as before")

    return {column: _tried(check) for column, check in ((INFER, infer), (TRAIN, train), (AGAIN, infer))}


def _tried(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception as error:  # after any error, the other checks go on
        logger.error("%s", error)
        return _first_line(error)
    return "ok"


def markdown(rows: dict[str, Cells]) -> str:
    """Format the table, with a row per bundle."""
    lines = ["| bundle | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, cells in rows.items():
        texts = [cells.get(column, "not tried").replace("|", "\\|") for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def support(names: Sequence[str], work: Path) -> dict[str, Cells]:
    """Export bundles and try them.

    Args:
        names: names of the bundles, such as ``msd_spleen_unet``.
        work: folder for everything that is written.

    Returns:
        By the name of the bundle, and then by column: ``ok``, or what went wrong.
    """
    exported = {}
    for name in names:
        bundle, weights = small_bundle(work / "small", name)
        exported[name] = export_bundle(bundle, weights, work / "exported", PHANTOMS)
    rows: dict[str, Cells] = {}
    for dataset in dict.fromkeys(name.rpartition("_")[0] for name in names):
        own = {name: folder for name, folder in exported.items() if name.rpartition("_")[0] == dataset}
        served = label_cells(dataset, list(own.values()), work / "label" / dataset)
        for name, folder in own.items():
            rows[name] = zoo_cells(folder) | served[folder.name] | format_cells(folder)
            logger.info("%s: %s", name, rows[name])
    return rows


def _without_package(*arguments: str, bundle: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python from the root folder, without the package."""
    path = os.pathsep.join(str(folder) for folder in (bundle, WITHOUT_PACKAGE) if folder)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd="/", env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no file, and no error")


def _versions() -> str:
    found = []
    for package in ("monai", "torch", "numpy", "onnxruntime", "openvino"):
        try:
            found.append(f"{package} {version(package).partition('+')[0]}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def _monailabel() -> str:
    """Return the version of MONAI Label that start.sh installs."""
    (line,) = (line for line in START.read_text(encoding="utf-8").splitlines() if line.startswith("MONAILABEL="))
    return line.partition("=")[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--bundles", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="default: all")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "support.md", help="file to write")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as work:
        rows = support(options.bundles, Path(work))
    text = TEXT.format(
        monailabel=_monailabel(),
        table=markdown(rows),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions=_versions(),
        bundles=__version__,
    )
    options.output.write_text(text, encoding="utf-8")
    return int(any(cell != "ok" for cells in rows.values() for cell in cells.values()))


if __name__ == "__main__":
    sys.exit(main())
