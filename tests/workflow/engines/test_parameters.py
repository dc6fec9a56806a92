# SPDX-License-Identifier: Apache-2.0

"""Which parameters decay, on both backbones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks.nets import BasicUNet, SwinUNETR
from torch import nn

from hybridmim_components.method import HybridMIM
from hybridmim_components.method.masking import MaskGrid
from hybridmim_components.workflow.engines import decay_groups

SMALL_SWIN: dict[str, Any] = {"feature_size": 12, "depths": (1, 1, 1, 1), "drop_rate": 0.1}
NETWORKS = {
    "unet": lambda: (BasicUNet(features=(4, 4, 4, 4, 4, 4), dropout=0.1, norm=("instance", {"affine": True})), 16),
    "swinunetr": lambda: (SwinUNETR(1, 2, **SMALL_SWIN), 32),
}
WEIGHTED = (nn.Conv3d, nn.ConvTranspose3d, nn.Linear)


@pytest.mark.parametrize("backbone", NETWORKS)
def test_weights_decay_and_norms_biases_tables_and_the_token_do_not(backbone: str) -> None:
    network, stride = NETWORKS[backbone]()
    model = HybridMIM(network, MaskGrid(2 * stride, stride, stride // 2), mask_fill="token")
    decaying, others = decay_groups(model, 0.05)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [{names[id(p)] for p in group["params"]} for group in (decaying, others)]
    weights = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, WEIGHTED)} & set(
        names.values()
    )  # a layer of SwinUNETR's MLPs has two names
    assert found[0] == weights
    assert found[1] == set(names.values()) - weights
    assert "mask_fill.token" in found[1] and any(name.endswith("bias") for name in found[1])
    tables = {name for name in names.values() if name.endswith("relative_position_bias_table")}
    assert tables <= found[1] and bool(tables) == (backbone == "swinunetr")
    assert len(decaying["params"]) + len(others["params"]) == len(names)


def test_position_embeddings_of_a_vision_transformer_do_not_decay() -> None:
    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position_embeddings = nn.Parameter(torch.zeros(1, 8, 4))
            self.patch_embeddings = nn.Conv3d(1, 4, 2)

    decaying, others = decay_groups(nn.ModuleDict({"patch_embedding": Embedding()}), 0.1)
    assert [tuple(p.shape) for p in decaying["params"]] == [(4, 1, 2, 2, 2)]
    assert [tuple(p.shape) for p in others["params"]] == [(1, 8, 4), (4,)]


def test_frozen_parameters_are_left_out_and_an_optimizer_takes_the_groups() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    network[0].requires_grad_(False)
    with torch.no_grad():
        network[1].weight.fill_(1)
        network[1].bias.fill_(1)
    optimizer = torch.optim.AdamW(decay_groups(network, 0.5), lr=0.1)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    for parameter in network[1].parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(network[1].weight, torch.full((1, 3), 0.95)) and network[1].bias.item() == 1
