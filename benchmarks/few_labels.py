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

"""Does pre-training help with few labels? Dice by arm and number of labelled patients, on patients that chose nothing.

    python benchmarks/few_labels.py tune   --dataset_dir DIR --work DIR    # learning rates, on the tuning patients
    python benchmarks/few_labels.py run    --dataset_dir DIR --work DIR    # the table's cells, on the test patients
    python benchmarks/few_labels.py curve  --dataset_dir DIR --work DIR    # Dice against steps, on the tuning patients
    python benchmarks/few_labels.py report                                # table and plot from the cells so far

The question: by how much does the mean Dice of the test patients rise when a network starts from HybridMIM's weights,
against training from scratch and against plain masked modelling? The rule, fixed before any test patient was scored: a
gain is claimed for a number of labelled patients where the 95 % interval of the paired difference lies above 0.

Arms are files in benchmarks/arms: overrides of a bundle's pretrain.json and train.json, so that the study measures the
bundles. Patients fall into three disjoint sets by a fixed seed: 60 test patients, 40 tuning patients, and the pool that
pre-training sees and labels are drawn from. A seed draws the labelled patients, the initial weights and the crops; all
arms share them. Arms with a pre-training get equal CPU time for it, all arms get equal steps of fine-tuning, and each
arm its own learning rate, chosen on the tuning patients from one list. Weights are those of the last step: no
validation chooses any. Each cell is a row of a CSV file, written when it ends; what is there is not computed again. Run
it in pieces of any length.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from few_labels_cells import Cell, Study, read_arms
from few_labels_report import report
from tqdm import tqdm

from hybridmim_components.files import write_text

RESULTS = Path(__file__).resolve().parent / "results"
RATES = (0.001, 0.003)
SEEDS_BELOW_8, SEEDS_ABOVE, TUNING_SEEDS = 10, 5, (100, 101)
PRETRAININGS = 2
_study: Study


def table_cells(arms: Sequence[str], labels: Sequence[int], options: argparse.Namespace) -> list[Cell]:
    """Cells of the table, seed by seed, so that a part of them is a fair table too."""
    cells = []
    for seed in range(max(SEEDS_BELOW_8, SEEDS_ABOVE)):
        for count in labels:
            if seed < (SEEDS_BELOW_8 if 0 < count < 8 else SEEDS_ABOVE) and seed < options.seeds:
                rates = chosen_rates(options, arms)
                cells += [
                    Cell(arm, count, seed, seed % PRETRAININGS, "test", rates[arm], options.steps) for arm in arms
                ]
    return cells


def tuning_cells(arms: Sequence[str], options: argparse.Namespace) -> list[Cell]:
    """Cells that choose each arm's learning rate: 2 labelled patients, seeds that the table does not use."""
    return [
        Cell(arm, 2, seed, 0, "tuning", rate, options.steps) for seed in TUNING_SEEDS for rate in RATES for arm in arms
    ]


def chosen_rates(options: argparse.Namespace, arms: Sequence[str]) -> dict[str, float]:
    """The learning rate of each arm with the best mean Dice on the tuning patients.

    An arm that was not tuned takes that of HybridMIM, of which it is a variant; ``scratch_longer`` that of scratch.
    """
    found: dict[tuple[str, float], list[float]] = {}
    for row in read_rows(options.output / "tuning.csv"):
        found.setdefault((row["arm"], float(row["learning_rate"])), []).append(float(row["dice"]))
    best: dict[str, float] = {}
    for (arm, rate), values in sorted(found.items(), key=lambda item: statistics.mean(item[1])):
        if len(values) == len(TUNING_SEEDS):
            best[arm] = rate
    for arm in arms:
        model = "scratch" if read_arms()[arm].pretrain is None else "hybridmim"
        if arm not in best and model not in best:
            raise SystemExit(
                f"few_labels: tune {model} first: {options.output / 'tuning.csv'} has no learning rate of it"
            )
        best.setdefault(arm, best[model])
    return best


def run_cells(cells: Iterable[Cell], path: Path, do: Callable[[Cell], list[dict[str, Any]]], processes: int) -> None:
    """Compute the cells that the file has not, and add a row, or several, as each ends."""
    cells = list(cells)
    names = list(Cell.__dataclass_fields__)
    done = {tuple(row[name] for name in names) for row in read_rows(path)}
    left = [cell for cell in cells if cell.key not in done]
    with multiprocessing.get_context("fork").Pool(processes, maxtasksperchild=1) as pool:
        for rows in tqdm(pool.imap_unordered(do, left), total=len(cells), initial=len(cells) - len(left), unit="cell"):
            add_rows(path, rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, none where there is none; a line that a kill has left unfinished does not count."""
    return list(csv.DictReader(io.StringIO(_whole_lines(path))))


def add_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to a CSV file, atomically."""
    text = io.StringIO()
    before = _whole_lines(path)
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    if not before:
        writer.writeheader()
    writer.writerows(rows)
    write_text(path, before + text.getvalue())


def _whole_lines(path: Path) -> str:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text[: text.rfind("\n") + 1]


def _score(cell: Cell) -> list[dict[str, Any]]:
    return [_study.score(cell)]


def _curve(cell: Cell) -> list[dict[str, Any]]:
    return _study.curve(cell)


def _pretrain(job: tuple[str, int]) -> tuple[str, int]:
    _study.pretrain(_study.arms[job[0]], job[1])
    return job


def prepare(arms: Sequence[str], processes: int, numbers: Sequence[int]) -> None:
    """Measure each arm's step, one after the other, and pre-train what is missing, side by side."""
    context, study = multiprocessing.get_context("fork"), _study
    with_pretraining = [arm for arm in arms if study.arms[arm].pretrain is not None]
    for arm in with_pretraining:
        if not all((study.work / "pretrained" / f"{arm}_{number}" / "done.json").is_file() for number in numbers):
            with context.Pool(1) as pool:
                pool.apply(_steps, (arm,))
    jobs = [(arm, number) for number in numbers for arm in with_pretraining]
    with context.Pool(processes, maxtasksperchild=1) as pool:
        for arm, number in pool.imap_unordered(_pretrain, jobs):
            print(f"few_labels: pre-trained {arm}, number {number}", file=sys.stderr, flush=True)


def _steps(arm: str) -> int:
    return _study.pretraining_steps(_study.arms[arm])


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    global _study
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("tune", "run", "curve", "report"))
    parser.add_argument("--dataset_dir", help="folder of MSD's Task04_Hippocampus")
    parser.add_argument("--work", type=Path, help="folder for pre-trained weights and logs")
    parser.add_argument("--bundle", default="msd_hippocampus_unet", help="default: %(default)s")
    parser.add_argument("--arms", nargs="+", default=["scratch", "masked_modelling", "hybridmim"], choices=read_arms())
    parser.add_argument("--labels", nargs="+", type=int, default=[1, 2, 4, 8], help="labelled patients; 0: all")
    parser.add_argument("--seeds", type=int, default=SEEDS_BELOW_8, help="at most so many")
    parser.add_argument("--steps", type=int, default=400, help="of fine-tuning")
    parser.add_argument("--pretraining_minutes", type=float, default=8, help="CPU time; default: %(default)s")
    parser.add_argument("--processes", type=int, default=2, help="one thread each")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/few_labels_BUNDLE")
    options = parser.parse_args(arguments)
    options.output = options.output or RESULTS / f"few_labels_{options.bundle}"
    if options.command == "report":
        report(options.output, {name: arm.title for name, arm in read_arms().items()})
        return
    if not options.dataset_dir or not options.work:
        parser.error("--dataset_dir and --work are needed")
    import torch

    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    _study = Study(options.bundle, options.dataset_dir, options.work.resolve(), options.pretraining_minutes)
    if options.command == "tune":
        prepare(options.arms, options.processes, [0])
        run_cells(tuning_cells(options.arms, options), options.output / "tuning.csv", _score, options.processes)
        print("few_labels: chosen learning rates:", chosen_rates(options, options.arms))
        return
    cells = table_cells(options.arms, options.labels, options)
    prepare(options.arms, options.processes, sorted({cell.pretraining for cell in cells}))
    if options.command == "run":
        run_cells(cells, options.output / "cells.csv", _score, options.processes)
        report(options.output, {name: arm.title for name, arm in read_arms().items()})
    else:
        run_cells(cells, options.output / "curves.csv", _curve, options.processes)


if __name__ == "__main__":
    main()
