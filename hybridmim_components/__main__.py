# Copyright 2026 HybridMIM bundles contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Command line: ``python -m hybridmim_components COMMAND``; training and inference are ``python -m monai.bundle``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import fire

from hybridmim_components.data.phantoms import write_msd_spleen, write_unlabelled
from hybridmim_components.overview import draw_overview, summary

__all__ = ["main"]


def phantoms(output_dir: str, num_training: int = 20, num_test: int = 2, num_unlabelled: int = 8, seed: int = 0) -> str:
    """Write CT-like phantoms: a labelled data set in MSD's layout, and unlabelled volumes.

    Args:
        output_dir: ``Task09_Spleen`` and ``unlabelled`` are written below it.
        num_training: labelled volumes.
        num_test: volumes without labels, in imagesTs.
        num_unlabelled: volumes in the folder for pre-training.
        seed: seed of everything.
    """
    root = Path(output_dir)
    dataset = write_msd_spleen(root / "Task09_Spleen", num_training, num_test, seed=seed)
    unlabelled = write_unlabelled(root / "unlabelled", num_unlabelled, seed=seed + 1)
    return f"{dataset}\n{unlabelled}"


def overview(
    run_dir: str, dataset_dir: str, dataset: str = "msd_spleen", window: tuple = (-57, 164), title: str = ""
) -> str:
    """Draw overview.png of a run and print its table.

    Args:
        run_dir: folder with the outputs of pretrain, train and evaluate.
        dataset_dir: folder of the labelled data set.
        dataset: name of the data set.
        window: display window in HU.
        title: headline of the picture.
    """
    draw_overview(run_dir, dataset, dataset_dir, window, title)
    return summary(run_dir)


def main() -> None:
    """Run one command; an error that names its cause ends with that line alone."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        fire.Fire({"phantoms": phantoms, "overview": overview}, name="hybridmim_components")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
