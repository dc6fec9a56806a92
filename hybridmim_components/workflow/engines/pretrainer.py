# SPDX-License-Identifier: Apache-2.0

"""Pre-training engine: MONAI's SupervisedTrainer with the five loss terms and further figures in its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import Tensor
from torch.nn import functional as F

from hybridmim_components.method.losses import (
    LOSS_TERMS,
    HybridMIMLoss,
    location_accuracy,
    number_accuracy,
    visible_mean_error,
)
from hybridmim_components.method.masking import MaskGrid, expand_mask

__all__ = ["HybridMIMTrainer", "perception_figures", "unchanged_share"]


class HybridMIMTrainer(SupervisedTrainer):
    """Trainer of :class:`.method.HybridMIM` with :class:`.losses.HybridMIMLoss`.

    ``state.output`` is a list with one entry for the whole batch, so that MONAI's own handlers (MLFlowHandler) find the
    loss in it as in a decollated output. The entry is a dictionary that holds the total as ``loss``, each term by its
    name, ``partial_region_guess`` (see :func:`.losses.visible_mean_error`), ``unchanged`` (see
    :func:`unchanged_share`), and the results of :func:`perception_figures`.

    Args:
        loss_function: the loss.
        kwargs: arguments of ``monai.engines.SupervisedTrainer``; ``prepare_batch`` must be a :class:`.MaskedBatch`.

    Example:
        >>> from hybridmim_components.method import HybridMIM
        >>> from hybridmim_components.workflow.engines import MaskedBatch
        >>> grid = MaskGrid((32, 16, 16), 16, 8)
        >>> model = HybridMIM(BasicUNet(features=(4, 4, 4, 4, 4, 4)), grid, contrast=False)
        >>> batches, optimizer = [{"image": torch.rand(1, 1, 32, 16, 16)}], torch.optim.SGD(model.parameters(), lr=0.1)
        >>> trainer = HybridMIMTrainer(
        ...     device="cpu", max_epochs=1, train_data_loader=batches, network=model, optimizer=optimizer,
        ...     loss_function=HybridMIMLoss(1, 0.1, 0, 0, 0), prepare_batch=MaskedBatch(grid),
        ... )
        >>> trainer.run()
        >>> (output,) = trainer.state.output
        >>> torch.isclose(output["loss"], output["partial_region"] + 0.1 * output["number"])
        tensor(True)
    """

    def __init__(self, *, loss_function: HybridMIMLoss, **kwargs: Any) -> None:
        super().__init__(loss_function=self._total_loss, decollate=False, **kwargs)
        self.terms = loss_function

    def _iteration(self, engine: Any, batchdata: Any) -> Any:
        return [super()._iteration(engine, batchdata)]

    def _total_loss(self, outputs: dict[str, Tensor], targets: dict[str, Any]) -> Tensor:
        terms = self.terms(outputs, **targets)
        image, mask, region = (targets[name] for name in ("image", "mask", "region"))
        output: dict[str, Tensor] = self.state.output
        with torch.no_grad():
            output.update({name: terms[name].detach() for name in LOSS_TERMS})
            output["partial_region_guess"] = visible_mean_error(image, mask, region)
            output["unchanged"] = unchanged_share(image, outputs["masked"], mask, region.grid)
            output.update(perception_figures(outputs, mask))
        return terms["loss"]


def perception_figures(outputs: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Compute the accuracies of the number and location heads: scalars by name, none for a model without these heads.

    Args:
        outputs: result of :class:`.method.HybridMIM`.
        mask: boolean (B, S, P).

    Returns:
        ``number_accuracy``, ``number_within_one`` (at most one patch off) and ``location_accuracy`` (balanced).

    Example:
        >>> mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> one_too_many = nn.functional.one_hot(torch.ones(1, 8, dtype=torch.long), 9).float()
        >>> figures = perception_figures({"number": one_too_many, "location": torch.full((1, 8, 8), -1.0)}, mask)
        >>> figures["number_accuracy"].item(), figures["number_within_one"].item()
        (0.0, 1.0)
    """
    if "number" not in outputs:
        return {}
    return {
        "number_accuracy": number_accuracy(outputs["number"], mask),
        "number_within_one": number_accuracy(outputs["number"], mask, within=1),
        "location_accuracy": location_accuracy(outputs["location"], mask),
    }


def unchanged_share(image: Tensor, masked: Tensor, mask: Tensor, grid: MaskGrid, tolerance: float = 0.05) -> Tensor:
    """Compute the share of masked patches that masking leaves nearly unchanged.

    A network cannot tell such a patch from a visible one, so it cannot learn to count the masked patches.

    Args:
        image: crops (B, C, *image_size).
        masked: the same crops with their masked voxels filled.
        mask: boolean (B, S, P).
        grid: the crops' grid.
        tolerance: largest change of a voxel that still counts as unchanged, in units of the images.

    Returns:
        Scalar in [0, 1].

    Example:
        >>> grid = MaskGrid(4, 4, 2)
        >>> image = torch.zeros(1, 1, 4, 4, 4)
        >>> image[..., 2:] = 1
        >>> every_patch = torch.ones(1, 1, 8, dtype=torch.bool)
        >>> unchanged_share(image, torch.zeros_like(image), every_patch, grid)  # half of the patches are 0 already
        tensor(0.5000)
    """
    pool = {2: F.max_pool2d, 3: F.max_pool3d}[len(grid.image_size)]
    largest = pool((masked - image).abs().amax(1, keepdim=True), grid.patch_size, stride=grid.patch_size)
    corner = tuple(slice(None, None, size) for size in grid.patch_size)
    hidden = expand_mask(mask, grid)[(slice(None), slice(None), *corner)]
    return ((largest <= tolerance) & hidden).sum() / hidden.sum().clamp(min=1)
