# SPDX-License-Identifier: Apache-2.0

"""Measure whether pre-training helps with few labels: Dice by arm and number of labelled patients, on test patients.

    python benchmarks/few_labels.py tune   --dataset_dir DIR --work DIR    # learning rates, on the tuning patients
    python benchmarks/few_labels.py run    --dataset_dir DIR --work DIR    # the table's cells, on the test patients
    python benchmarks/few_labels.py curve  --dataset_dir DIR --work DIR    # Dice against steps, on the tuning patients
    python benchmarks/few_labels.py probe  --dataset_dir DIR --work DIR    # frozen features, on the test patients
    python benchmarks/few_labels.py report                                # tables and plot from the cells so far

The study asks by how much the mean Dice of the test patients rises if a network starts from HybridMIM's weights,
compared with training from scratch and with plain masked modelling. This rule was fixed before any test patient was
scored: a gain is claimed for a number of labelled patients if the 95 % interval of the paired difference lies above 0.
The first comparison is that with scratch at 2 labelled patients.

An arm is one way to obtain a network. Arms are files in benchmarks/arms with overrides of a bundle's pretrain.json and
train.json, so that the study measures the bundles. A fixed seed divides the patients into three disjoint sets: 60 test
patients, 24 tuning patients, and the pool. Pre-training sees the images of the pool, and the labelled patients are
drawn from it. Each case counts as a patient, but the two sides of a head in MSD Hippocampus count as one. Each seed of
the study draws the labelled patients, the initial weights, the crops and the pre-training; all arms share it. Arms with
a pre-training get equal CPU time for it, and all arms get equal steps of fine-tuning. scratch_longer is trained from
scratch for as many steps, and for the CPU time of a pre-training as well.

`tune` chooses a learning rate for each of its arms and each number of steps, from one list for all arms, by the Dice of
the tuning patients. `run` uses the rate that was tuned with the same number of labelled patients, or else with the
nearest number. Arms that were not tuned are variants of HybridMIM or of scratch, and use its rate. The script warns if
a rate was tuned with another number of labelled patients, or is the largest or the least of the list.

The study runs on MSD Hippocampus, or with --bundle, --dataset_dir and --settings on any data set that a bundle reads,
your own in its layout included. --unlabelled_dirs adds volumes without labels to pre-training. --settings names a JSON
file with the numbers of test and tuning patients, and with overrides of the bundle's configs for all arms, such as
{"test": 20, "tuning": 10, "pretrain": {"roi_size": [64, 64, 32]}, "train": {"roi_size": [64, 64, 32]}}. study.json
beside the results and the weights holds what they depend on. Its settings are used if --settings is left out. A folder
of another study is refused, and so is an arm that was changed since.

`probe` trains no network. It fits a linear classifier to the frozen features of each arm, those of scratch being new
weights, and scores it. The tuning patients choose its penalty on large weights. Its question: do HybridMIM's features
segment better than those of new weights, and than those of plain masked modelling? A difference is claimed by the same
rule; the first comparison is that at 1 labelled patient.

The scores are those of the weights of the last step, so no validation chooses any weights. The exception is nnU-Net:
its pre-trained weights are those of the best validation, on volumes of the pool. Each cell is a row of a CSV file,
written when the cell ends. A finished cell is not computed again, so the study can run in pieces of any length, with
one command at a time in a folder.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from few_labels_arms import read_arms
from few_labels_cells import STEPS_PER_EPOCH, Cell, Study
from few_labels_nnunet import BUNDLE as NNUNET
from few_labels_nnunet import NnunetStudy
from few_labels_patients import StudyError
from few_labels_rates import RATES, TUNING_SEEDS, chosen_rates
from few_labels_report import report, report_probe, report_tuning
from few_labels_settings import Settings, keep_record, kept_settings, read_settings, record_of
from rows import add_rows, read_rows
from tqdm import tqdm

from hybridmim_components.system.folder_lock import FolderLock

RESULTS = Path(__file__).resolve().parent / "results"
TUNING_LABELS = 2
_study: Study
#: The learning rates of each arm, by numbers of labelled patients and of steps.
Rates = dict[tuple[int, int], Mapping[str, Sequence[float]]]


def cells_of_seed(seed: int, rates: Rates, scored: str) -> list[Cell]:
    """Return the cells of a seed: one per number of labelled patients, number of steps, arm and learning rate."""
    return [
        cell_of(arm, labels, seed, scored, rate, steps)
        for (labels, steps), by_arm in rates.items()
        for arm, choices in by_arm.items()
        for rate in choices
    ]


def cell_of(arm: str, labels: int, seed: int, scored: str, rate: float, steps: int) -> Cell:
    """Return a cell with the budget of its arm."""
    return Cell(arm, labels, seed, scored, rate, steps, _study.pretraining_steps(arm))


def rates_of(options: argparse.Namespace, labels: int, steps: int, tune: bool) -> dict[str, Sequence[float]]:
    """Return the learning rates of each arm: all that are compared, or the one that was chosen."""
    if tune:
        return dict.fromkeys(options.arms, options.rates)
    chosen = chosen_rates(options.output / "tuning.csv", options.arms, labels, steps)
    return {arm: [rate] for arm, rate in chosen.items()}


def missing(cells: Sequence[Cell], path: Path) -> list[Cell]:
    """Return the cells that the file lacks."""
    names = list(Cell.__dataclass_fields__)
    done = {tuple(row[name] for name in names) for row in read_rows(path)}
    return [cell for cell in cells if cell.key not in done]


def require_same_budgets(cells: Sequence[Cell], path: Path) -> None:
    """Refuse cells whose learning rate or pre-training differs from that of the same cells of other seeds.

    Raises:
        StudyError: names what differs, before anything is computed.
    """
    known = {(r["arm"], r["labels"], r["steps"]): (r["learning_rate"], r["pretraining_steps"]) for r in read_rows(path)}
    for cell in cells:
        ours = (str(cell.learning_rate), str(cell.pretraining_steps))
        theirs = known.get((cell.arm, str(cell.labels), str(cell.steps)), ours)
        if ours != theirs:
            raise StudyError(
                f"{path} has {cell.arm} with {cell.labels or 'all'} labels and {cell.steps} steps at another learning "
                f"rate or length of pre-training: {theirs}, now {ours}: move these rows to another file first"
            )


def run_cells(
    cells: Sequence[Cell], path: Path, do: Callable[[Cell], list[dict[str, Any]]], processes: int, what: str
) -> None:
    """Compute cells, and add the rows of each cell to the file when it ends.

    If a cell fails, all but the next few are left, and the rows of those that were started are kept.
    """
    with pool(processes) as executor, tqdm(total=len(cells), unit="cell", desc=what) as bar:
        futures = [executor.submit(do, cell) for cell in cells]
        failed: BaseException | None = None
        for future in as_completed(futures):
            if future.cancelled():
                continue
            if error := future.exception():
                failed = failed or error
                for other in futures:
                    other.cancel()
            else:
                add_rows(path, future.result())
                bar.update()
        if failed:
            raise failed


def pool(processes: int) -> ProcessPoolExecutor:
    """Start processes that share this one's study. If one dies, the command ends; if the command ends, all end."""
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_end_with, initargs=(os.getpid(),))


def _end_with(parent: int) -> None:
    """End this process when its parent ends, so that it does not disturb the next command."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _score(cell: Cell) -> list[dict[str, Any]]:
    return [_study.score(cell)]


def _curve(cell: Cell) -> list[dict[str, Any]]:
    return _study.curve(cell)


def _probe(cell: Cell) -> list[dict[str, Any]]:
    return [_study.probe(cell)]


def _pretrain(job: tuple[str, int]) -> dict[str, Any]:
    _study.pretrain(*job)
    return _study.learnt(*job)


def _measure(arm: str) -> None:
    _study.measure(arm)


def measure(arms: Sequence[str]) -> None:
    """Measure what a step of each arm costs, one after the other."""
    for source in dict.fromkeys(_study.arms[arm].pretrained_by or arm for arm in arms):
        with pool(1) as executor:
            executor.submit(_measure, source).result()


def pretrain(arms: Sequence[str], processes: int, seed: int, path: Path) -> None:
    """Run the missing pre-trainings of a seed in parallel, and add their validation figures to a file."""
    sources = dict.fromkeys(source for arm in arms if (source := _study.arms[arm].pretrained_by))
    with pool(processes) as executor:
        for learnt in executor.map(_pretrain, [(source, seed) for source in sources]):
            print(f"few_labels: pre-trained {learnt['arm']}, seed {seed}", file=sys.stderr, flush=True)
            known = {(row["arm"], row["seed"], row["steps"]) for row in read_rows(path)}
            if (learnt["arm"], str(learnt["seed"]), str(learnt["steps"])) not in known:
                add_rows(path, [learnt])


#: What each command writes, how, and the patients that it scores.
WORK = {
    "tune": ("tuning.csv", _score, "tuning"),
    "run": ("cells.csv", _score, "test"),
    "curve": ("curves.csv", _curve, "tuning"),
    "probe": ("probe.csv", _probe, "test"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    global _study
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("tune", "run", "curve", "probe", "report"))
    parser.add_argument("--dataset_dir", help="folder of the labelled data set, as the bundle's docs/README.md says")
    parser.add_argument("--work", type=Path, help="folder for pre-trained weights and logs")
    parser.add_argument("--bundle", default="msd_hippocampus_unet", help=f"default: %(default)s; {NNUNET}: nnU-Net")
    parser.add_argument("--unlabelled_dirs", nargs="+", default=(), help="further volumes for pre-training")
    parser.add_argument("--settings", type=Path, help="JSON: numbers of patients, overrides for all arms")
    parser.add_argument("--arms", nargs="+", default=["scratch", "masked_modelling", "hybridmim"], choices=read_arms())
    parser.add_argument("--labels", nargs="+", type=int, help="labelled patients; 0: all; default: 1 2 4 8, for tune 2")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="that tune compares")
    parser.add_argument("--seeds", type=int, default=10, help="their number, but for tune; default: %(default)s")
    parser.add_argument("--only_seeds", nargs="+", type=int, help="these seeds instead of the first --seeds")
    parser.add_argument("--steps", nargs="+", type=int, default=[400], help="of fine-tuning; default: %(default)s")
    parser.add_argument("--pretraining_minutes", type=float, default=10.0, help="CPU time; default: %(default)s")
    parser.add_argument("--processes", type=int, default=2, help="one thread each")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/few_labels_BUNDLE")
    options = parser.parse_args(arguments)
    options.output = options.output or RESULTS / f"few_labels_{options.bundle}"
    options.labels = options.labels or ([TUNING_LABELS] if options.command == "tune" else [1, 2, 4, 8])
    titles = {name: arm.title for name, arm in read_arms().items()}
    if options.command == "report":
        others = {"tuning.csv": report_tuning, "probe.csv": report_probe}
        found = [write for name, write in others.items() if (options.output / name).is_file()]
        for write in found:
            write(options.output, titles)
        try:
            if (options.output / "cells.csv").is_file() or not found:
                report(options.output, titles)
        except FileNotFoundError as error:
            raise SystemExit(f"few_labels: {error}") from None
        return
    if not options.dataset_dir or not options.work:
        parser.error("--dataset_dir and --work are needed")
    for steps in options.steps:
        if steps < STEPS_PER_EPOCH or steps % STEPS_PER_EPOCH:
            parser.error(f"--steps must be a multiple of {STEPS_PER_EPOCH}, got {steps}")
    if options.only_seeds and (options.command == "tune" or set(options.only_seeds) & set(TUNING_SEEDS)):
        parser.error(f"--only_seeds is not for tune, and must not name the tuning seeds {TUNING_SEEDS}")
    torch.set_num_threads(1)
    work, costs = options.work.resolve(), options.output / "seconds_per_step.json"
    own = [name for name in options.arms if read_arms()[name].train or read_arms()[name].longer]
    if options.bundle == NNUNET and (own or options.command in ("curve", "probe")):
        parser.error(f"nnU-Net trains by its own recipe: leave out {', '.join(own) or options.command}")
    if options.bundle == NNUNET and (options.settings or options.unlabelled_dirs):
        parser.error("nnU-Net plans its own settings: leave out --settings and --unlabelled_dirs")
    try:
        settings = read_settings(options.settings) if options.settings else kept_settings(options.output) or Settings()
        common = (options.dataset_dir, work, costs, options.pretraining_minutes)
        if options.bundle == NNUNET:
            _study = NnunetStudy(*common)
        else:
            _study = Study(options.bundle, *common, settings, options.unlabelled_dirs)
        for count in options.labels:
            _study.patients.labelled(count, seed=0)
        sources = {_study.arms[name].pretrained_by for name in options.arms} - {None}
        arms = {name: _study.arms[name].recipe for name in sorted({*options.arms, *sources})}
        record = record_of(options.bundle, _study.patients, settings, options.pretraining_minutes, arms)
        try:
            lock = FolderLock(output=options.output, work=_study.work)
        except OSError as error:
            raise StudyError(error) from None
        try:
            keep_record(record, {"--output": options.output, "--work": _study.work})
            compute(options, titles)
        finally:
            lock.release()
    except StudyError as error:
        raise SystemExit(f"few_labels: {error}") from error


def compute(options: argparse.Namespace, titles: Mapping[str, str]) -> None:
    """Compute what the command asks for, seed by seed, so that a part of the table is fair, too."""
    name, do, scored = WORK[options.command]
    tune = options.command == "tune"
    if options.command == "probe":  # without any steps of fine-tuning
        rates: Rates = {(labels, 0): dict.fromkeys(options.arms, (0.0,)) for labels in options.labels}
    else:
        budgets = itertools.product(options.labels, options.steps)
        rates = {(labels, steps): rates_of(options, labels, steps, tune) for labels, steps in budgets}
    measure(options.arms)
    if options.command in ("run", "probe"):
        require_same_budgets(cells_of_seed(0, rates, scored), options.output / name)
    for seed in TUNING_SEEDS if tune else options.only_seeds or range(options.seeds):
        cells = missing(cells_of_seed(seed, rates, scored), options.output / name)
        if options.command == "probe":
            for labels in sorted({cell.labels for cell in cells}):
                _study.require_probe_crops(labels, seed)
        arms = list(dict.fromkeys(cell.arm for cell in cells))  # a seed that is complete needs no pre-training
        pretrain(arms, options.processes, seed, options.output / "pretraining.csv")
        run_cells(cells, options.output / name, do, options.processes, f"seed {seed}")
        if options.command == "run":
            report(options.output, titles)
        elif tune:
            report_tuning(options.output, titles)
        elif options.command == "probe":
            report_probe(options.output, titles)


if __name__ == "__main__":
    main()
