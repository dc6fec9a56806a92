# SPDX-License-Identifier: Apache-2.0

r"""Train the weights that a bundle holds, by its own commands, and measure them on patients that they have not seen.

    python benchmarks/trained_weights.py --dataset_dir /path/to/Task04_Hippocampus --work /path/to/work

The script divides the patients as few_labels.py does. Pre-training and training see the pool and the tuning patients;
fold 0 of these chooses the best epoch. The test patients influence no choice and are scored once, at the end. Each of
the three runs resumes where it was interrupted. At the end, the script copies the weights into the bundle's ``models``
and writes the figures to ci/bundles/performance. ci/render_bundles.py puts them into metadata.json and README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from few_labels_patients import Patients
from monai.bundle import ConfigParser
from rows import read_rows

from hybridmim_components.system.files import write_text
from hybridmim_components.weights import read_recipe

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ("model.pt", "model.json")
LARGEST = 8 * 10**6


def require_small(bundle: Path) -> None:
    """Refuse a network that is too large for a repository, before it is trained.

    Raises:
        ValueError: names the bundle, the limit and the size.
    """
    parser = ConfigParser(ConfigParser.load_config_file(str(bundle / "configs" / "inference.json")))
    network = parser.get_parsed_content("network_def")
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > LARGEST:
        raise ValueError(f"weights in the repository must be at most {LARGEST} bytes, got {size} of {bundle.name}")


def link(items: Sequence[dict[str, Any]], folder: Path) -> None:
    """Make links to the images and labels of cases, in the layout of the Decathlon."""
    for part, key in (("imagesTr", "image"), ("labelsTr", "label")):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for item in items:
            source = Path(item[key]).resolve()
            target = folder / part / source.name
            if not target.is_symlink():
                target.symlink_to(source)


def run(bundle: Path, configs: Sequence[str], settings: Sequence[str]) -> None:
    """Run one of the bundle's commands, as a user types it."""
    files = [str(bundle / "configs" / f"{name}.json") for name in configs]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(bundle)]
    subprocess.run([*command, *settings], check=True, env={"OMP_NUM_THREADS": "1"} | os.environ)


def measured(summary: Path, weights: Path, trained_on: int, tested_on: int, epochs: int) -> dict[str, Any]:
    """Return the values for the bundle's templates: the figures of cases that the weights have not seen.

    Args:
        summary: ``evaluation_summary.csv``.
        weights: the weights that were evaluated.
        trained_on: number of training cases.
        tested_on: number of test cases.
        epochs: epochs of pre-training.

    Raises:
        ValueError: when the weights have seen any of the cases.
    """
    rows = read_rows(summary)
    seen = {row["figures"] for row in rows} - {"unseen"}
    if seen or not rows:
        raise ValueError(f"test patients must be unseen, {summary} has figures of {sorted(seen) or 'none'}")
    dice = {row["class"]: round(float(row["dice"]), 4) for row in rows}
    distance = {row["class"]: round(float(row["hd95_mm"]), 2) for row in rows}
    table = [
        f"| | {' | '.join(dice)} |",
        f"|---|{'---|' * len(dice)}",
        f"| Dice | {' | '.join(f'{value:.3f}' for value in dice.values())} |",
        f"| HD95, mm | {' | '.join(f'{value:.2f}' for value in distance.values())} |",
    ]
    return {
        "weights_statement": f"The weights were trained on {trained_on} cases of the data set.",
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "eval_metrics": {f"dice_{name}": value for name, value in dice.items()}
        | {f"hd95_mm_{name}": value for name, value in distance.items()},
        "performance": [
            f"On {tested_on} cases of patients that neither pre-training nor training has seen, means over the cases:",
            "",
            *table,
            "",
            "The repository's `benchmarks/trained_weights.py` made the weights and this table, with this bundle's",
            f"configs: {epochs} epochs of pre-training, then training; other patients chose the best epoch.",
            "The weights have the licence of the images, see `docs/data_license.txt`.",
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_dir", required=True, help="folder of MSD's Task04_Hippocampus")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--bundle", default="msd_hippocampus_unet", help="default: %(default)s")
    parser.add_argument("--pretrain_epochs", type=int, default=20, help="of 100 steps; default: %(default)s")
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=VALUE", help="of all three runs")
    options = parser.parse_args(arguments)
    bundle = ROOT / "bundles" / f"hybridmim_{options.bundle}_segmentation"
    work = options.work.resolve()
    require_small(bundle)
    patients = Patients(options.bundle.rpartition("_")[0], options.dataset_dir)
    train, test = patients.items([*patients.pool, *patients.tuning]), patients.items(patients.test)
    link(train, work / "train")
    link(test, work / "test")
    pairs = [part for name, _, value in (s.partition("=") for s in options.settings) for part in (f"--{name}", value)]
    own = [*pairs, "--dataset_dir", str(work / "train"), "--ckpt_dir", str(work / "models")]
    pretrained = work / "models" / "pretrained" / "model.pt"
    run(bundle, ["pretrain"], [*own, "--output_dir", str(work / "pretrain"), "--epochs", str(options.pretrain_epochs)])
    run(bundle, ["train"], [*own, "--output_dir", str(work / "train_run"), "--pretrained", str(pretrained)])
    evaluation = ["--output_dir", str(work / "evaluate"), "--test_dir", str(work / "test")]
    run(bundle, ["train", "evaluate"], [*own, *evaluation])
    summary, weights = work / "evaluate" / "evaluation_summary.csv", work / "models" / "model.pt"
    trained_on = len(read_recipe(weights)["training_volumes"])  # the others chose the best epoch
    values = measured(summary, weights, trained_on, len(test), options.pretrain_epochs)
    for name in WEIGHTS:
        (bundle / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(work / "models" / name, bundle / "models" / name)
    target = ROOT / "ci" / "bundles" / "performance" / f"{options.bundle}.json"
    write_text(target, json.dumps(values, indent=4) + "\n")
    print(f"trained_weights: wrote {target}; now run ci/render_bundles.py")


if __name__ == "__main__":
    main()
