# SPDX-License-Identifier: Apache-2.0

"""Trainers for nnU-Net v2 with warm-up and a lower learning rate.

nnU-Net finds them by name if the environment variable ``nnUNet_extTrainer`` contains this folder, both in training and
in prediction. They import nothing from this package.
"""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.optim import Optimizer

__all__ = ["WarmUpPolyLRScheduler", "nnUNetTrainer_HybridMIM", "nnUNetTrainer_HybridMIM_scratch"]


class WarmUpPolyLRScheduler(PolyLRScheduler):
    """Linear warm-up, then nnU-Net's polynomial decay over the remaining epochs.

    nnU-Net's own ``nnUNetTrainer_warmup`` cannot continue a training with PyTorch 2.6 or newer, because it loads its
    checkpoint without ``weights_only=False``.

    Args:
        optimizer: optimiser whose learning rate is set.
        initial_lr: learning rate at the end of the warm-up.
        max_steps: epochs of the training.
        warm_up: epochs of the warm-up, at most a tenth of the training.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_steps: int, warm_up: int) -> None:
        self.warm_up = min(warm_up, max_steps // 10)
        super().__init__(optimizer, initial_lr, max_steps - self.warm_up)

    def step(self, current_step: int | None = None) -> None:
        """Set the learning rate of an epoch, which counts from 0."""
        if current_step is None or current_step == -1:
            current_step = self.ctr
            self.ctr += 1
        if current_step >= self.warm_up:
            super().step(current_step - self.warm_up)
            return
        learning_rate = self.initial_lr * (current_step + 1) / (self.warm_up + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self._last_lr = [learning_rate for _ in self.optimizer.param_groups]


class nnUNetTrainer_HybridMIM(nnUNetTrainer):  # noqa: N801
    """nnU-Net's trainer with 50 epochs of warm-up to a tenth of nnU-Net's learning rate."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 1e-3
        self.warm_up = 50

    def configure_optimizers(self) -> tuple[Optimizer, Any]:
        """Return nnU-Net's optimiser and a schedule with warm-up."""
        optimizer, _ = super().configure_optimizers()
        return optimizer, WarmUpPolyLRScheduler(optimizer, self.initial_lr, self.num_epochs, self.warm_up)


class nnUNetTrainer_HybridMIM_scratch(nnUNetTrainer_HybridMIM):  # noqa: N801
    """The same trainer under another name, so that a training from scratch has its own folder of results."""
