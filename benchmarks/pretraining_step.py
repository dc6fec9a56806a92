# SPDX-License-Identifier: Apache-2.0

"""Compare a pre-training step at the published size with the released recipe and with whole-crop modelling.

    python benchmarks/pretraining_step.py                           # both backbones, 3 rounds: half an hour
    python benchmarks/pretraining_step.py --backbones unet --kinds ours compiled --rounds 1
    git clone https://github.com/ge-xing/HybridMIM; python benchmarks/pretraining_step.py --release HybridMIM

With a checkout of the authors' repository, their code itself is measured too (it needs einops).

A step takes two crops of 96^3 from two volumes, in float32 on the CPU, and includes the step of AdamW. Of the released
recipe only the arithmetic is compared, see ``released_recipe.py``. Each figure comes from a process of its own, which
takes one step and then measures another. The kinds take turns; the knobs of ours are tried in the first round only.
Peak memory is that of the whole process. Medians go to benchmarks/results/pretraining_step_<backbone>.csv and .png.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PLAIN = {"keep_freed_memory": False}
KINDS: dict[str, dict[str, Any]] = {
    "authors": PLAIN,
    "released": PLAIN,
    "whole": {**PLAIN, "region": "full"},
    "ours": {},
    "new_memory": PLAIN,
    "huge_pages": PLAIN,
    "checkpointing": {"activation_checkpointing": True},
    "compiled": {"compile": True},
}
TITLES = {
    "authors": "the authors' code",
    "released": "released recipe",
    "whole": "whole crop, two views",
    "ours": "ours",
    "new_memory": "ours, keep_freed_memory false",
    "huge_pages": "ours, keep_freed_memory false, huge pages",
    "checkpointing": "ours, activation_checkpointing true",
    "compiled": "ours, compile true",
}
ENVIRONMENT = {"huge_pages": {"THP_MEM_ALLOC_ENABLE": "1"}}  # of PyTorch; for Linux that grants huge pages
COMPARED = ("authors", "released", "whole", "ours")
MEASURES = ("cpu_s", "wall_s", "peak_gib", "first_s")
PLOTTED = {"cpu_s": "CPU time", "peak_gib": "peak memory"}


def step_of(kind: str, backbone: str, knobs: dict[str, Any], release: Path | None) -> Callable[[], None]:
    """Build a function that takes one step of a kind."""
    import torch
    from monai.bundle import ConfigParser
    from released_recipe import AuthorsStep, ReleasedStep

    parser = ConfigParser()
    parser.read_config(str(ROOT / f"bundles/hybridmim_msd_spleen_{backbone}_segmentation/configs/pretrain.json"))
    parser.update({"device": "cpu", **KINDS[kind], **knobs})
    torch.manual_seed(0)
    images = torch.rand(2, 1, *parser.get_parsed_content("roi_size"))
    if kind not in ("authors", "released", "whole"):  # these keep torch's own dropout and the default allocator
        parser.get_parsed_content("execution")
    model: Any
    if kind in ("authors", "released"):
        if kind == "authors":
            model = AuthorsStep(Path(release or ""), backbone)
        else:
            model = ReleasedStep(parser.get_parsed_content("network_def"), parser.get_parsed_content("grid"))
        optimizer = torch.optim.AdamW(model.parameters())
    else:
        model, optimizer = parser.get_parsed_content("model"), parser.get_parsed_content("optimizer")
    loss, prepare = parser.get_parsed_content("loss"), parser.get_parsed_content("train#prepare_batch")
    model.train()

    def step() -> None:
        if kind in ("authors", "released"):
            total = model(images)
        else:
            batch = {"image": images, "volume": torch.arange(2)}
            _, targets, arguments, _ = prepare(batch, torch.device("cpu"))
            total = loss(model(images, *arguments), **targets)["loss"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return step


def measure(kind: str, backbone: str, knobs: dict[str, Any], release: Path | None) -> None:
    """Print the figures of a second step as JSON."""
    step, start = step_of(kind, backbone, knobs, release), time.monotonic()
    step()
    first, wall, cpu = time.monotonic() - start, time.monotonic(), time.process_time()
    step()
    figures = {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - wall, "first_s": first}
    print(json.dumps({**figures, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def rounds_of(
    backbone: str, kinds: list[str], rounds: int, knobs: dict[str, Any], release: Path | None
) -> dict[str, list[dict[str, float]]]:
    """Measure all rounds, and return their figures."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind in kinds:
            if number and kind not in COMPARED:
                continue
            command = [sys.executable, __file__, "--measure", kind, "--backbones", backbone]
            command += ["--knobs", json.dumps(knobs), *(["--release", str(release)] if release else [])]
            environment = {**plain, **ENVIRONMENT.get(kind, {})}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            found[kind].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{backbone}, round {number + 1}, {kind}: {found[kind][-1]}", file=sys.stderr, flush=True)
    return found


def write(backbone: str, found: dict[str, list[dict[str, float]]], folder: Path) -> None:
    """Write medians and ratios to both released kinds as CSV, print them as a table, and plot the ratios."""
    medians = {k: {m: statistics.median(r[m] for r in rows) for m in MEASURES} for k, rows in found.items()}
    base, authors = medians.get("released"), medians.get("authors")
    columns = ["kind", "rounds", *MEASURES, *(f"{m}_ratio" for m in PLOTTED), *(f"{m}_to_authors" for m in PLOTTED)]
    table: list[list[Any]] = [
        [TITLES[kind], len(found[kind]), *(f"{row[m]:.2f}" for m in MEASURES)]
        + [f"{row[m] / other[m]:.2f}" if other else "" for other in (base, authors) for m in PLOTTED]
        for kind, row in medians.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"pretraining_step_{backbone}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *table])
    for line in [columns, ["---"] * len(columns), *table]:
        print("| " + " | ".join(map(str, line)) + " |")
    if base:
        plot(backbone, {TITLES[k]: [row[m] / base[m] for m in PLOTTED] for k, row in medians.items()}, path)


def plot(backbone: str, ratios: dict[str, list[float]], path: Path) -> None:
    """Plot the ratios to the released recipe as bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes, width = figure.subplots(), 0.8 / len(ratios)
    for number, (title, values) in enumerate(ratios.items()):
        places = [i + (number - (len(ratios) - 1) / 2) * width for i in range(len(values))]
        bars = axes.bar(places, values, 0.92 * width, label=title)
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    axes.axhline(1, color="0.5", linewidth=0.8)
    axes.set_xticks(range(len(PLOTTED)), list(PLOTTED.values()))
    axes.set_ylabel("ratio to the released recipe")
    axes.set_title({"unet": "UNet", "swinunetr": "SwinUNETR"}[backbone] + ", a pre-training step, two crops of 96³")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path.with_suffix(".png"), dpi=130)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--backbones", nargs="+", default=["unet", "swinunetr"], choices=["unet", "swinunetr"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files and plots")
    parser.add_argument("--knobs", type=json.loads, default={}, help="overrides of the config, as JSON")
    parser.add_argument("--release", type=Path, help="checkout of the authors' repository")
    parser.add_argument("--measure", choices=list(KINDS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.backbones[0], options.knobs, options.release)
        return
    kinds = [kind for kind in options.kinds if kind != "authors" or options.release]
    if not kinds:
        parser.error("the kind authors needs --release")
    for backbone in options.backbones:
        write(backbone, rounds_of(backbone, kinds, options.rounds, options.knobs, options.release), options.results)


if __name__ == "__main__":
    main()
