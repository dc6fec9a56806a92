# SPDX-License-Identifier: Apache-2.0

"""The examples in the docstrings run and give what they show; every public name of the method has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn

import hybridmim_components
from hybridmim_components.method import masking, partial_region

#: What a reader of an example has imported, beside what its module has.
KNOWN = {
    "torch": torch,
    "nn": nn,
    "BasicUNet": BasicUNet,
    "MaskGrid": masking.MaskGrid,
    "sample_mask": masking.sample_mask,
    "choose_region": partial_region.choose_region,
}
ROOMS = ("method", "networks", "weights", "data", "inference")


def modules() -> list[ModuleType]:
    """All modules of some rooms, but for those that need nnU-Net."""
    found = pkgutil.walk_packages(hybridmim_components.__path__, "hybridmim_components.")
    names = [m.name for m in found if m.name.split(".")[1] in ROOMS and "nnunet" not in m.name]
    return [importlib.import_module(name) for name in names]


EXAMPLES = [
    pytest.param(test, id=test.name.removeprefix("hybridmim_components."))
    for module in modules()
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=KNOWN)
    if test.examples
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_gives_what_it_shows(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=told.append)
    assert runner.failures == 0, "".join(told)


def test_every_public_name_of_the_method_has_one() -> None:
    shown = {example.values[0].name for example in EXAMPLES}
    for module in modules():
        if module.__name__.startswith("hybridmim_components.method."):
            for name in getattr(module, "__all__", []):
                thing = getattr(module, name)
                if inspect.isfunction(thing) or inspect.isclass(thing):
                    assert f"{thing.__module__}.{name}" in shown
