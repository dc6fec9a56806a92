# SPDX-License-Identifier: Apache-2.0

"""The examples in the docstrings run and give what they show; every name that a reader meets has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.networks.nets import BasicUNet
from monai.transforms import Activationsd, Lambdad
from torch import nn

import hybridmim_components
from hybridmim_components.method import masking, partial_region

#: What a reader of an example has imported, beside what its module has.
KNOWN = {
    "Path": Path,
    "nib": nib,
    "np": np,
    "torch": torch,
    "nn": nn,
    "Engine": Engine,
    "Activationsd": Activationsd,
    "BasicUNet": BasicUNet,
    "Lambdad": Lambdad,
    "MetaTensor": MetaTensor,
    "SupervisedEvaluator": SupervisedEvaluator,
    "SupervisedTrainer": SupervisedTrainer,
    "MaskGrid": masking.MaskGrid,
    "sample_mask": masking.sample_mask,
    "choose_region": partial_region.choose_region,
}
ROOMS = (
    "method",
    "networks",
    "weights",
    "data",
    "phantoms",
    "inference",
    "deployment",
    "workflow",
    "store",
    "system",
    "report",
)
ROOT = Path(__file__).parents[1]
CONFIGS = sorted(ROOT.glob("bundles/*/configs/*.json"))
#: Public names of the reference without an example.
WITHOUT = {
    "system.allocator.keep_freed_memory",  # changes the memory of this process until its end
    "weights.hub.pull",  # needs the internet
    "weights.hub.push",  # needs the internet and an account
}


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
SHOWN = {example.values[0].name.removeprefix("hybridmim_components.") for example in EXAMPLES}


def defined(thing: Any) -> str | None:
    """Where a function or class is defined, such as ``data.splits.shuffled``; None for anything else."""
    shown = inspect.isfunction(thing) or inspect.isclass(thing)
    return f"{thing.__module__}.{thing.__name__}".removeprefix("hybridmim_components.") if shown else None


def named_by_the_configs() -> set[str]:
    """Every function and class of the package that a config names, by a ``_target_`` or in an expression."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in CONFIGS)
    # of all configs, since an overlay uses what the config below it imports
    modules_by_alias = {m[2]: m[1] for m in re.finditer(r'"\$import (hybridmim_components[\w.]*) as (\w+)"', text)}
    used = re.findall(r'"(hybridmim_components\.[\w.]+)"', text)
    for expression in re.findall(r'"\$(?!import )(.*)"', text):
        found = re.findall(r"\b(\w+)\.(\w+)", expression)
        used += [f"{modules_by_alias[alias]}.{name}" for alias, name in found if alias in modules_by_alias]
    things = [getattr(importlib.import_module(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in set(used)]
    return {name for thing in things if (name := defined(thing))}


def documented() -> list[ModuleType]:
    """The modules whose public names the reference pages list, but for those that need nnU-Net."""
    pages = sorted(ROOT.glob("docs/reference/*.md"))
    names = [n for page in pages for n in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8"))]
    return [importlib.import_module(name) for name in names if "nnunet" not in name]


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_gives_what_it_shows(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # a bundle's configs where they are for a reader in the root of the repository; a copy, so that none can be changed
    for name in set(re.findall(r"bundles/\w+", example.docstring or "")):
        shutil.copytree(ROOT / name / "configs", tmp_path / name / "configs")
    torch.manual_seed(0)
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=told.append)
    assert runner.failures == 0, "".join(told)


def test_every_public_name_of_the_method_has_one() -> None:
    for module in modules():
        if module.__name__.startswith("hybridmim_components.method."):
            names = {defined(getattr(module, name)) for name in getattr(module, "__all__", [])}
            assert names - SHOWN <= {None}


def test_every_public_name_of_the_reference_has_one() -> None:
    shown = documented()
    assert {"hybridmim_components.data", "hybridmim_components.deployment"} <= {module.__name__ for module in shown}
    names = {defined(getattr(module, name)) for module in shown for name in module.__all__}
    assert names - SHOWN - {None} == WITHOUT


def test_every_name_that_a_config_uses_has_one() -> None:
    named = named_by_the_configs()
    assert {"data.volumes.VolumeRules", "workflow.engines.metrics.loss_of", "workflow.distributed.stop"} <= named
    assert named - SHOWN == {
        "system.allocator.keep_freed_memory",  # as above
        "system.errors.shorten_tracebacks",  # acts only where an error ends python -m monai.bundle
    }
