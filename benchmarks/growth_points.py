# SPDX-License-Identifier: Apache-2.0

"""Measurements of the points of growth.py, each in the calling process and in one thread, that is for one core.

Each measurement returns ``time`` in CPU seconds and ``memory`` in MiB beyond what the process held before.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["inference", "start_up", "training_step", "write_ct", "write_noise", "write_stores"]

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
# narrow and shallow, so that a point takes seconds; the rest is MSD Spleen's config
NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {"network_def#features": [8, 8, 16, 32, 32, 8]},
    "swinunetr": {
        "network_def#feature_size": 12,
        "network_def#depths": [1, 1, 1, 1],
        "network_def#num_heads": [1, 2, 4, 8],
    },
}
MASKS: dict[str, dict[str, Any]] = {
    "unet": {"subvolume_size": [16, 16, 16], "patch_size": [8, 8, 8]},
    "swinunetr": {"subvolume_size": [32, 32, 32], "patch_size": [16, 16, 16]},
}
# The window is small, so that a small volume also has several. Both pipelines take the same number of windows at a
# time, since PyTorch has no fast CPU convolutions for a single input as small and narrow as this.
WINDOW, WINDOWS_AT_A_TIME = (48, 48, 48), 4
STORE: dict[str, Any] = {"spacing": (1.5, 1.5, 2.0), "intensity_range": (-57, 164)}  # as for MSD Spleen


def training_step(backbone: str, roi_size: Sequence[int], batch_size: int, steps: int = 2) -> dict[str, float]:
    """Take steps of pretrain.json (forward, backward and optimiser) on random crops, each from another volume.

    Args:
        backbone: ``unet`` or ``swinunetr``.
        roi_size: voxels of a crop.
        batch_size: number of crops; a single one has no negatives, so the contrast is then off.
        steps: number of steps after the first one; the time is their median.
    """
    import torch
    from monai.bundle import ConfigParser

    torch.set_num_threads(1)
    torch.manual_seed(0)
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / f"hybridmim_msd_spleen_{backbone}_segmentation" / "configs" / "pretrain.json"))
    settings = {"device": "cpu", "roi_size": list(roi_size), **NETWORKS[backbone], **MASKS[backbone]}
    if batch_size == 1:
        settings["contrast_weight"] = 0
    for name, value in settings.items():
        parser[name] = value
    before = _reset_peak()
    names = ("network", "execution", "loss", "optimizer", "train#prepare_batch")
    network, _, loss, optimizer, prepare_batch = (parser.get_parsed_content(name) for name in names)
    network.train()
    seconds = []
    for _ in range(steps + 1):
        batch = {"image": torch.rand(batch_size, 1, *roi_size), "volume": torch.arange(batch_size)}
        start = time.process_time()
        images, targets, arguments, _ = prepare_batch(batch, torch.device("cpu"))
        optimizer.zero_grad()
        loss(network(images, *arguments), **targets)["loss"].backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    return {"time": statistics.median(seconds[1:]), "memory": _peak() - before}


def inference(image: str, configs: Sequence[str], num_classes: int, work: str) -> dict[str, float]:
    """Segment one CT by a bundle's inference configs, from the file of the CT to that of the mask.

    Args:
        image: folder of one CT.
        configs: names of configs; later ones override earlier ones.
        num_classes: channels of the network's output.
        work: folder for weights and mask.
    """
    import torch
    from monai.bundle import ConfigWorkflow

    torch.set_num_threads(1)
    torch.manual_seed(0)
    bundle = BUNDLES / "hybridmim_msd_spleen_unet_segmentation"
    overrides: dict[str, Any] = {"network_def#features": [4, 4, 4, 8, 8, 4], "inferer#sw_batch_size": WINDOWS_AT_A_TIME}
    workflow = ConfigWorkflow(
        [str(bundle / "configs" / f"{name}.json") for name in configs],
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(bundle),
        ckpt_dir=work,
        image_dir=image,
        output_dir=f"{work}/masks",
        device="cpu",
        num_classes=num_classes,
        roi_size=list(WINDOW),
        **overrides,
    )
    workflow.initialize()
    network = workflow.parser.get_parsed_content("network")
    torch.save(network.state_dict(), f"{work}/model.pt")
    with torch.no_grad():
        network(torch.rand(1, 1, *WINDOW))
    before, start = _reset_peak(), time.process_time()
    workflow.run()
    return {"time": time.process_time() - start, "memory": _peak() - before}


def start_up(source: str, folder: str, draws: int = 100) -> dict[str, float]:
    """Do all that pre-training does with its volumes before the first step, and measure a worker of its loader.

    Args:
        source: ``memory``: files, checked and cached in memory; ``store``: a prepared store.
        folder: folder of the files, or the store.
        draws: number of volumes that the worker draws crops of.

    Returns:
        ``time`` and ``memory`` of the run, and ``memory of a worker``, which comes on top.
    """
    import torch
    from prepared_store import parsed

    from hybridmim_components.data import make_dataset, pretraining_lists
    from hybridmim_components.store import open_pool
    from hybridmim_components.workflow.preflight import check_pretraining

    torch.set_num_threads(1)
    roi_size, transform = parsed("roi_size"), parsed("train#preprocessing")
    output = f"{folder}_run"
    before, start = _own_memory(), time.process_time()
    if source == "store":
        lists = pretraining_lists("msd_spleen", "", pool=open_pool(folder, 0.1, 0, **STORE))
    else:
        lists = pretraining_lists("msd_spleen", "", folder)
    volumes = check_pretraining(lists, output, 4, 2, contrast_weight=0.1, num_workers=1)
    dataset = make_dataset(volumes["training"], transform, source, num_workers=1, roi_size=roi_size, crops_per_volume=2)
    seconds = time.process_time() - start
    gc.collect()
    memory = _own_memory() - before
    return {"time": seconds, "memory": memory, "memory of a worker": _worker(dataset, draws)}


def write_ct(folder: str, size: Sequence[int]) -> None:
    """Write a phantom of an abdomen with voxels of 1 mm; its body grows with the image."""
    import nibabel as nib

    from hybridmim_components.phantoms.anatomy import abdomen_phantom

    image, _ = abdomen_phantom(np.random.default_rng(0), tuple(size), (1.0, 1.0, 1.0))
    Path(folder).mkdir(parents=True)
    nib.save(nib.Nifti1Image(image, np.diag([-1.0, -1.0, 1.0, 1.0])), f"{folder}/ct.nii.gz")


def write_noise(folder: str, numbers: Sequence[int], size: Sequence[int]) -> None:
    """Write different CTs of noise at the bundle's spacing; ``folder``/NUMBER holds NUMBER of them."""
    import nibabel as nib

    generator, affine = np.random.default_rng(0), np.diag([-1.5, -1.5, 2.0, 1.0])
    for number in numbers:
        Path(folder, str(number)).mkdir(parents=True)
    for i in range(max(numbers)):
        own = [Path(folder, str(number), f"ct_{i:03d}.nii.gz") for number in numbers if i < number]
        nib.save(nib.Nifti1Image(generator.integers(-100, 200, tuple(size), np.int16), affine), own[0])
        for path in own[1:]:
            os.link(own[0], path)


def write_stores(images: str, folder: str, numbers: Sequence[int]) -> None:
    """Write a prepared store, and beside it stores ``folder``/NUMBER whose index lists NUMBER volumes."""
    from prepared_store import prepare, simulate

    Path(folder).mkdir(parents=True)
    store, _ = prepare(Path(images), Path(folder) / "prepared")
    for number in numbers:
        simulate(store, Path(folder) / str(number), number)


def _worker(dataset: Any, draws: int) -> float:
    reading, writing = os.pipe()
    child = os.fork()  # as a data loader does
    if child == 0:
        before, generator = _own_memory(), np.random.default_rng(0)
        for _ in range(draws):
            dataset[int(generator.integers(len(dataset)))]
        os.write(writing, str(_own_memory() - before).encode())
        os._exit(0)
    os.close(writing)
    grown = float(os.read(reading, 100))
    os.waitpid(child, 0)
    return grown


def _own_memory() -> float:
    """Return the MiB that this process alone has written; mapped pages of files, such as an index, are shared."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) / 1024


def _reset_peak() -> float:
    """Reset the peak, and return the resident MiB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> float:
    # not getrusage, whose peak includes that of the process that started this one
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024
