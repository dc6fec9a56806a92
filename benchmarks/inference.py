# SPDX-License-Identifier: Apache-2.0

"""Compare inference.json with and without frugal_inference.json on a CT of 512 x 512 x 200 voxels, on the CPU.

    python benchmarks/inference.py --work DIR                        # 3 rounds with a small network, trained beforehand
    python benchmarks/inference.py --work DIR --network published --rounds 1     # the bundle's own size, random weights
    python benchmarks/inference.py --work DIR --network published --every 60     # where 125 windows take too long
    python benchmarks/inference.py --work DIR --kinds usual frugal kept tight fast    # and with its two knobs

Both pipelines segment the same phantom of an abdomen (0.8 x 0.8 x 2.5 mm, air around the body) with the 14 classes of
BTCV. inference.json is the pipeline of the Model Zoo's BTCV bundle: softmax, invert, argmax. Each run is a process of
its own, measured from the imports to the written mask; the pipelines take turns. The small network is trained for some
hundred steps on another phantom, since random weights would give noise with ties everywhere. DIR keeps phantom, weights
and masks; results go to benchmarks/results.

With ``--every N``, only one window of N (at least) passes through the network. Times are then estimates: they assume
that all windows take equally long. Peak memory is still measured, but masks are not compared.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FRUGAL = ["inference", "frugal_inference"]
CONFIGS = {"usual": ["inference"], "frugal": FRUGAL, "kept": FRUGAL, "tight": FRUGAL, "fast": FRUGAL}
KEPT, TIGHT = {"keep_freed_memory": True}, {"keep_windows": False}
OVERRIDES: dict[str, dict[str, Any]] = {"kept": KEPT, "tight": TIGHT, "fast": {**KEPT, **TIGHT}}
SIZE, SPACING = (512, 512, 200), (0.8, 0.8, 2.5)
TRAINING_SIZE, TRAINING_SPACING = (240, 240, 160), (1.5, 1.5, 2.0)
NETWORKS: dict[str, list[int] | None] = {"small": [8, 8, 16, 32, 32, 8], "published": None}
MEASURES = ("peak_gib", "wall_s", "cpu_s", "network_cpu_s", "windows")


def draw(seed: int, size: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[Any, Any]:
    """Draw a phantom: its image in HU and its map of BTCV's labels."""
    import numpy as np

    from hybridmim_components.phantoms.anatomy import abdomen_phantom
    from hybridmim_components.phantoms.ct_datasets import _BTCV_ORGANS, EXTRAS

    image, organs = abdomen_phantom(
        np.random.default_rng(seed), size, spacing, [o for o in EXTRAS if o in _BTCV_ORGANS]
    )
    values = np.zeros(256, np.uint8)
    values[list(_BTCV_ORGANS)] = range(1, len(_BTCV_ORGANS) + 1)
    return image, values[organs]


def network_of(bundle: Path, features: list[int] | None) -> Any:
    """Build the bundle's network, or a narrower one."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    if features:
        parser["network_def#features"] = features
    return parser.get_parsed_content("network_def")


def prepare(work: Path, bundle: Path, network: str, steps: int) -> None:
    """Write phantom and weights if they do not exist yet."""
    import nibabel as nib
    import numpy as np
    import torch

    image_file, weights = work / "images" / "ct.nii.gz", work / f"{bundle.name}_{network}" / "model.pt"
    if not image_file.exists():
        image_file.parent.mkdir(parents=True, exist_ok=True)
        image, _ = draw(0, SIZE, SPACING)
        nib.save(nib.Nifti1Image(image, np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1])), image_file)
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        model = network_of(bundle, NETWORKS[network])
        if NETWORKS[network]:
            train(model, steps)
        torch.save(model.state_dict(), weights)


def train(model: Any, steps: int) -> None:
    """Train for some steps on crops of a phantom, around one organ after another."""
    import numpy as np
    import torch
    from monai.losses import DiceCELoss

    image, labels = draw(1, TRAINING_SIZE, TRAINING_SPACING)
    scaled = torch.from_numpy(image).float().add(175).div(425).clamp(0, 1)
    rng = np.random.default_rng(0)
    places = [np.argwhere(labels == value) for value in range(14)]
    loss, optimizer = DiceCELoss(to_onehot_y=True, softmax=True), torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in range(steps):
        centre = rng.choice(places[step % len(places)])
        start = [int(np.clip(c - 48, 0, n - 96)) for c, n in zip(centre, labels.shape, strict=True)]
        crop = tuple(slice(s, s + 96) for s in start)
        target = torch.from_numpy(labels[crop].astype(np.float32))[None, None]
        value = loss(model(scaled[crop][None, None]), target)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {value.item():.3f}", flush=True)


def run_once(kind: str, work: Path, bundle: Path, network: str, every: int) -> None:
    """Run the bundle's inference once, and print its figures as JSON."""
    import resource

    from monai.bundle import ConfigWorkflow

    start = time.monotonic()
    features = NETWORKS[network]
    overrides: dict[str, Any] = {"network_def#features": features} if features else {}
    workflow = ConfigWorkflow(
        [str(bundle / "configs" / f"{name}.json") for name in CONFIGS[kind]],
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(bundle),
        ckpt_dir=str(work / f"{bundle.name}_{network}"),
        image_dir=str(work / "images"),
        output_dir=str(work / f"{bundle.name}_{network}" / kind),
        device="cpu",
        **overrides,
        **OVERRIDES.get(kind, {}),
    )
    workflow.initialize()
    model = workflow.parser.get_parsed_content("network")
    sampled = _Sampled(model.forward, every)
    model.forward = sampled
    workflow.run()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    more = sampled.windows / sampled.passed - 1
    figures = {
        "peak_gib": usage.ru_maxrss / 2**20,
        "wall_s": time.monotonic() - start + more * sampled.wall,
        "cpu_s": usage.ru_utime + usage.ru_stime + more * sampled.cpu,
        "network_cpu_s": (1 + more) * sampled.cpu,
        "windows": sampled.windows,
        "windows_passed": sampled.passed,
    }
    print(json.dumps(figures))


class _Sampled:
    """Forward of a network that counts and times windows; some are computed, the others get the last result."""

    def __init__(self, forward: Any, every: int) -> None:
        self.forward, self.every = forward, every
        self.windows = self.passed = 0
        self.wall = self.cpu = 0.0
        self.last: Any = None

    def __call__(self, x: Any) -> Any:
        number, self.windows = self.windows, self.windows + len(x)
        if self.last is not None and -number % self.every >= len(x):
            return self.last[: len(x)].clone()
        wall, cpu = time.monotonic(), time.process_time()
        result = self.forward(x)
        self.wall, self.cpu = self.wall + time.monotonic() - wall, self.cpu + time.process_time() - cpu
        self.passed += len(x)
        if self.every > 1:
            self.last = result.clone()
        return result


def equal_shares(work: Path, bundle: Path, network: str, kinds: list[str]) -> dict[str, dict[str, float]]:
    """Compute the share of voxels labelled as in the usual pipeline, of all and of those of an organ in either mask."""
    import nibabel as nib
    import numpy as np

    masks = {
        k: np.asarray(
            nib.Nifti1Image.from_filename(next((work / f"{bundle.name}_{network}" / k).glob("*.nii.gz"))).dataobj
        )
        for k in kinds
    }
    shares = {}
    for kind, mask in masks.items():
        organ = (mask > 0) | (masks["usual"] > 0)
        same = mask == masks["usual"]
        shares[kind] = {"equal": float(same.mean()), "equal_organs": float(same[organ].mean())}
    return shares


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for phantom, weights and masks")
    parser.add_argument("--bundle", default="btcv_unet")
    parser.add_argument("--network", choices=list(NETWORKS), default="small")
    parser.add_argument("--steps", type=int, default=300, help="of the small network's training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=list(CONFIGS), default=["usual", "frugal"])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--every", type=int, default=1, help="pass one window of so many to the network")
    parser.add_argument("--one", choices=list(CONFIGS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    bundle = ROOT / "bundles" / f"hybridmim_{options.bundle}_segmentation"
    work = options.work.resolve()
    if options.one:
        run_once(options.one, work, bundle, options.network, options.every)
        return
    prepare(work, bundle, options.network, options.steps)
    rows = []
    for number in range(options.rounds):
        for kind in options.kinds if number % 2 == 0 else options.kinds[::-1]:
            command = [sys.executable, __file__, "--work", str(work), "--network", options.network, "--one", kind]
            command += ["--bundle", options.bundle, "--every", str(options.every)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"error: {kind} failed:\n{done.stdout}\n{done.stderr}")
            figures = json.loads(done.stdout.strip().splitlines()[-1])
            rows.append({"network": options.network, "pipeline": kind, "round": number + 1, **figures})
            print(rows[-1], flush=True)
    if "usual" in options.kinds:
        shares = equal_shares(work, bundle, options.network, options.kinds) if options.every == 1 else {}
        report(rows, options.kinds, shares, options.results, f"inference_{options.bundle}_{options.network}")


def report(
    rows: list[dict[str, Any]], kinds: list[str], shares: dict[str, dict[str, float]], folder: Path, name: str
) -> None:
    """Write every run as CSV, and medians, ratios to the usual pipeline and equality as a table."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    median = {
        kind: {m: statistics.median(row[m] for row in rows if row["pipeline"] == kind) for m in MEASURES}
        for kind in kinds
    }
    lines = ["| | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for measure in MEASURES:
        base = median["usual"][measure]
        cells = [f"{median[k][measure]:.1f} ({median[k][measure] / base:.2f})" for k in kinds]
        lines.append(f"| {measure} | " + " | ".join(cells) + " |")
    for measure in ("equal", "equal_organs") if shares else ():
        lines.append(f"| {measure} | " + " | ".join(f"{shares[k][measure]:.4%}" for k in kinds) + " |")
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
