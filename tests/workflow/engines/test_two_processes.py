# SPDX-License-Identifier: Apache-2.0

"""Two processes with half of a batch each give the gradients of one process with the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from monai.networks.nets import BasicUNet, SwinUNETR
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hybridmim_components.method import HybridMIM
from hybridmim_components.method.losses import LOSS_TERMS, HybridMIMLoss
from hybridmim_components.method.masking import MaskGrid, sample_mask
from hybridmim_components.method.partial_region import choose_region

WHOLE, STEPS = 4, 2
SHARE, FLOOR = 1e-6, 1e-10  # of a parameter's largest gradient; biases before a normalization have rounding alone
NETWORKS: dict[str, Any] = {
    "unet": (lambda: BasicUNet(features=(4, 4, 8, 8, 16, 4), dropout=0.3), MaskGrid(32, 16, 8)),
    "swinunetr": (lambda: SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), drop_rate=0.3), MaskGrid(64, 32, 16)),
}


class InjectedDropout(nn.Module):
    """Dropout whose draw belongs to the crop and to the number of the call, not to its place in a batch."""

    def __init__(self, p: float, number: int, crops: range) -> None:
        super().__init__()
        self.p, self.number, self.crops, self.calls = p, number, crops, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        masks = []
        # attention sees several windows of a crop as items of their own
        per_crop = len(x) // len(self.crops)
        for crop in self.crops:
            generator = torch.Generator().manual_seed(1_000_000 * self.number + 1000 * self.calls + crop)
            masks.append(torch.rand((per_crop, *x.shape[1:]), generator=generator) >= self.p)
        return x * torch.cat(masks) / (1 - self.p)


def model_of(name: str, crops: range) -> HybridMIM:
    make, grid = NETWORKS[name]
    torch.manual_seed(0)
    model = HybridMIM(make(), grid)
    injected: dict[nn.Module, InjectedDropout] = {}
    for parent in list(model.modules()):
        for name_in_parent, child in list(parent._modules.items()):  # a layer of SwinUNETR's MLPs has two names
            if isinstance(child, (nn.Dropout, nn.Dropout3d)) and child.p > 0:
                new = injected.setdefault(child, InjectedDropout(child.p, len(injected), crops))
                setattr(parent, name_in_parent, new)
    return model


def gradients(name: str, crops: range) -> dict[str, Tensor]:
    """Gradients of some steps, the weights moved between them, and the terms of the last one."""
    grid = NETWORKS[name][1]
    # in float32 rounding settles which of a masked patch's equal voxels the pooling takes
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(WHOLE, 1, *grid.image_size, generator=generator)
    mask = sample_mask(grid, WHOLE, 0.4, "hierarchical", generator)
    region = choose_region(grid, "random", generator)
    volume = torch.tensor([5, 5, 6, 7])
    model: Any = model_of(name, crops)
    model.train()
    if dist.is_initialized():
        model = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    own = slice(crops.start, crops.stop)
    for _ in range(STEPS):
        optimizer.zero_grad()
        outputs = model(image[own], mask[own], region)
        terms = HybridMIMLoss()(outputs, image[own], mask[own], region, volume[own])
        terms["loss"].backward()
        found = {n.removeprefix("module."): p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    return found | {f"loss {term}": terms[term].detach() for term in LOSS_TERMS}


def run_half(rank: int, name: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    half = WHOLE // 2
    torch.save(gradients(name, range(rank * half, (rank + 1) * half)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "name", [pytest.param("unet", marks=pytest.mark.slow), pytest.param("swinunetr", marks=pytest.mark.full)]
)
def test_two_halves_give_the_gradients_of_the_whole(name: str, tmp_path: Path) -> None:
    command = [sys.executable, __file__, name, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    try:
        whole = gradients(name, range(WHOLE))
    finally:
        torch.set_default_dtype(torch.float32)
    assert whole.keys() == halves[0].keys() and len(whole) > 20
    for key, expected in whole.items():
        if not key.startswith("loss"):
            torch.testing.assert_close(halves[0][key], halves[1][key], rtol=0, atol=0)
            tolerance = FLOOR + SHARE * float(expected.abs().max())
            torch.testing.assert_close(halves[0][key], expected, rtol=0, atol=tolerance)
    # the contrast is that of the whole batch in both, the other terms are means over each half
    for half in halves:
        torch.testing.assert_close(half["loss contrast"], whole["loss contrast"], rtol=1e-5, atol=1e-6)
    mean = (halves[0]["loss partial_region"] + halves[1]["loss partial_region"]) / 2
    torch.testing.assert_close(mean, whole["loss partial_region"], rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    run_half(int(sys.argv[3]), *sys.argv[1:3])
