# SPDX-License-Identifier: Apache-2.0

"""The trainers that nnU-Net finds by nnUNet_extTrainer."""

from __future__ import annotations

import pytest
import torch

from hybridmim_components.nnunet.pretraining import TRAINERS


def test_the_learning_rate_warms_up_and_then_decays_to_nothing() -> None:
    from hybridmim_components.nnunet.trainers.hybridmim_trainers import WarmUpPolyLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    schedule = WarmUpPolyLRScheduler(optimizer, 1e-3, 1000, 50)
    rates = []
    for epoch in range(1000):
        schedule.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    rises = torch.tensor(rates[:51]).diff()
    assert rates[0] == pytest.approx(1e-3 / 51) and torch.allclose(rises, rises[:1].expand(50))
    assert max(rates) == rates[50] == pytest.approx(1e-3)
    assert rates[525] == pytest.approx(1e-3 * 0.5**0.9) and 0 < rates[-1] < 1e-5
    # a training that is continued sets the epoch anew
    schedule.step(525)
    assert optimizer.param_groups[0]["lr"] == rates[525] == schedule.get_last_lr()[0]


def test_a_short_training_warms_up_for_a_tenth_of_it() -> None:
    from hybridmim_components.nnunet.trainers.hybridmim_trainers import WarmUpPolyLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    assert WarmUpPolyLRScheduler(optimizer, 1e-3, 20, 50).warm_up == 2
    WarmUpPolyLRScheduler(optimizer, 1e-3, 5, 50).step(0)
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_nnunet_finds_both_by_name_in_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities import find_objects
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    # its own modules, which it looks through first, take seconds to import
    def find(folder: str, *arguments: object, **options: object) -> object:
        return recursive_find_python_class(folder, *arguments, **options) if folder == str(TRAINERS) else None

    monkeypatch.setattr(find_objects, "recursive_find_python_class", find)
    monkeypatch.setenv("nnUNet_extTrainer", str(TRAINERS))
    found = find_objects.recursive_find_trainer_class_by_name("nnUNetTrainer_HybridMIM")
    twin = find_objects.recursive_find_trainer_class_by_name("nnUNetTrainer_HybridMIM_scratch")
    assert issubclass(found, nnUNetTrainer) and found.__name__ != twin.__name__
