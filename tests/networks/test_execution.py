# SPDX-License-Identifier: Apache-2.0
"""Knobs of execution change what a step costs, not what it computes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from monai.networks.nets import BasicUNet, SwinUNETR
from torch import Tensor, nn

from hybridmim_components.networks import set_execution

SIZES = {"unet": (2, 1, 32, 32, 32), "swin": (1, 1, 64, 32, 32)}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "unet":
        return BasicUNet(features=(4, 4, 8, 8, 16, 4), dropout=0.1)
    return SwinUNETR(in_channels=1, out_channels=2, feature_size=12, drop_rate=0.1, depths=(1, 1, 1, 1))


def gradients(network: nn.Module, size: tuple[int, ...]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    image = torch.rand(size, dtype=next(network.parameters()).dtype)
    network.train()(image).square().mean().backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def test_checkpointing_keeps_less_than_half_of_what_going_back_needs() -> None:
    """Bytes that autograd keeps between the two passes, without the weights themselves."""

    def kept(checkpointing: bool) -> int:
        network = set_execution(build("unet"), "cpu", activation_checkpointing=checkpointing)
        weights = {p.data_ptr() for p in network.parameters()}
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            result = network.train()(torch.rand(SIZES["unet"]))
        del result
        return sum(sizes.values())

    assert kept(True) < 0.5 * kept(False)


def test_blocks_are_compiled_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    set_execution(build("unet"), "cpu", compile=True)
    set_execution(build("swin"), "cpu", compile=True)
    assert {name: compiled.count(name) for name in set(compiled)} == {
        "TwoConv": 5,
        "UpCat": 4,
        "SwinTransformerBlock": 4,
        "UnetrBasicBlock": 5,
        "UnetrUpBlock": 5,
    }


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_blocks_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without dropout, whose random numbers a compiled block draws in another order."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def build_without_dropout() -> nn.Module:
        torch.manual_seed(0)
        return BasicUNet(features=(4, 4, 8, 8, 16, 4)).double()  # double: no rounding chooses what is pooled

    plain = gradients(set_execution(build_without_dropout(), "cpu"), SIZES["unet"])
    network = set_execution(build_without_dropout(), "cpu", compile=True)
    assert list(network.state_dict()) == list(build_without_dropout().state_dict())
    found = gradients(network, SIZES["unet"])
    assert any(tmp_path.iterdir()), "nothing was compiled"
    assert found.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def test_what_excludes_each_other_is_refused() -> None:
    with pytest.raises(ValueError, match="compile and activation_checkpointing exclude each other, got true for both"):
        set_execution(build("unet"), "cpu", activation_checkpointing=True, compile=True)


def test_memory_is_kept_on_the_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def keep(largest: int) -> bool:
        sizes.append(largest)
        return True

    monkeypatch.setattr("hybridmim_components.networks.execution.keep_freed", keep)
    set_execution(build("unet"), "cuda:0", keep_freed_memory=True)
    assert not sizes
    set_execution(build("unet"), torch.device("cpu"), keep_freed_memory=True)
    set_execution(build("swin"), "cpu", keep_freed_memory=True)
    assert sizes == [3 * 2**27, 2**26]
