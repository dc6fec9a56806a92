# SPDX-License-Identifier: Apache-2.0

"""Measure the peak memory of one training step of a bundle at its published size, on the CPU, with random images.

    python benchmarks/step_memory.py                       # both backbones of MSD Spleen, both steps, 2 crops
    python benchmarks/step_memory.py --bundles btcv_unet --batch_sizes 2 4

Each figure comes from a process of its own. It includes network, gradients, the two moments of AdamW and the
activations of one step, in float32, and what PyTorch and MONAI themselves take. On a GPU, mixed precision halves the
memory of the activations.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"


def measure(bundle: str, step: str, batch_size: int) -> tuple[float, float, float]:
    """Take one step.

    Returns:
        Peak resident memory in GiB, the part of it that was there before the step, and the seconds of the step.
    """
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(BUNDLES / f"hybridmim_{bundle}_segmentation" / "configs" / f"{step}.json"))
    parser["device"] = "cpu"
    parser.get_parsed_content("execution")
    network, loss, optimizer = (parser.get_parsed_content(name) for name in ("network", "loss", "optimizer"))
    size = parser.get_parsed_content("roi_size")
    channels = parser.get_parsed_content("network_def#in_channels")
    images = torch.rand(batch_size, channels, *size)
    before, start = _peak(), time.monotonic()
    network.train()
    if step == "pretrain":
        # each crop is from another volume, so that the contrast has negatives
        batch = {"image": images, "volume": torch.arange(batch_size)}
        _, targets, arguments, _ = parser.get_parsed_content("train#prepare_batch")(batch, torch.device("cpu"))
        total = loss(network(images, *arguments), **targets)["loss"]
    else:
        outputs = network(images)
        labels = torch.zeros_like(outputs) if "sigmoid" in parser["loss"] else torch.zeros(batch_size, 1, *size)
        total = loss(outputs, labels)
    total.backward()
    optimizer.step()
    return _peak(), before, time.monotonic() - start


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--bundles", nargs="+", default=["msd_spleen_unet", "msd_spleen_swinunetr"])
    parser.add_argument("--steps", nargs="+", default=["pretrain", "train"])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[2])
    options = parser.parse_args()
    print("| bundle | step | crops | peak memory [GiB] | before the step [GiB] | seconds |\n|---|---|---|---|---|---|")
    for bundle in options.bundles:
        for step in options.steps:
            for batch_size in options.batch_sizes:
                # spawned, so that no earlier step affects the figure
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    peak, before, seconds = pool.apply(measure, (bundle, step, batch_size))
                print(f"| {bundle} | {step} | {batch_size} | {peak:.1f} | {before:.1f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
