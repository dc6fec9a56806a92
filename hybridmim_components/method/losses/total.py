# SPDX-License-Identifier: Apache-2.0

"""The total pre-training loss of HybridMIM: pixel, region and sample level."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from hybridmim_components.method.losses.contrast import contrast_loss, require_negatives
from hybridmim_components.method.losses.gathering import gather_views
from hybridmim_components.method.losses.perception import consistency_loss, location_loss, number_loss
from hybridmim_components.method.losses.reconstruction import partial_region_loss
from hybridmim_components.method.masking import expand_mask
from hybridmim_components.method.partial_region import Region

__all__ = ["LOSS_TERMS", "HybridMIMLoss"]

LOSS_TERMS = ("partial_region", "number", "location", "consistency", "contrast")


class HybridMIMLoss(nn.Module):
    """Total loss L_PR + 0.1 L_Num + 0.1 L_Loc + 0.01 L_Con + 0.1 L_CL (Xing et al., https://arxiv.org/abs/2303.10333).

    A term of weight 0 is not computed and is reported as 0. In a multi-process run the contrast takes its negatives
    from all processes.

    Args:
        partial_region_weight: weight of the reconstruction of masked voxels.
        number_weight: weight of the number of masked patches per sub-volume.
        location_weight: weight of the location of masked patches.
        consistency_weight: weight of the agreement between number and location.
        contrast_weight: weight of the contrast between dropout views.
        temperature: temperature of the contrast.
        same_volume_negatives: whether other crops of the same volume are negatives.

    Raises:
        ValueError: when a weight is negative, or all are 0.

    Example:
        >>> HybridMIMLoss(contrast_weight=0).weights["contrast"]
        0
        >>> HybridMIMLoss(0, 0, 0, 0, 0)
        Traceback (most recent call last):
        ValueError: at least one loss weight must be above 0, got 0 for all
    """

    def __init__(
        self,
        partial_region_weight: float = 1.0,
        number_weight: float = 0.1,
        location_weight: float = 0.1,
        consistency_weight: float = 0.01,
        contrast_weight: float = 0.1,
        temperature: float = 0.5,
        same_volume_negatives: bool = False,
    ) -> None:
        super().__init__()
        weights = (partial_region_weight, number_weight, location_weight, consistency_weight, contrast_weight)
        self.weights = dict(zip(LOSS_TERMS, weights, strict=True))
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"{name}_weight must be 0 or more and finite, got {weight}")
        if not any(weights):
            raise ValueError("at least one loss weight must be above 0, got 0 for all")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature = temperature
        self.same_volume_negatives = same_volume_negatives

    def forward(
        self, outputs: Mapping[str, Tensor], image: Tensor, mask: Tensor, region: Region, volume: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the total and its terms.

        Args:
            outputs: result of :class:`hybridmim_components.method.HybridMIM`. Without ``view2`` (evaluation mode)
                there is no contrast.
            image: the unmasked crops (B, C, *image_size).
            mask: boolean (B, S, P), True = masked.
            region: the partial region that was decoded.
            volume: (B,) number of each crop's volume, on the CPU.

        Returns:
            ``loss`` (weighted total) and each unweighted term by its name, scalars.

        Raises:
            ValueError: when the contrast is on and the batch holds no negatives.
        """

        def contrast() -> Tensor:
            distinct = None if self.same_volume_negatives else volume
            view1, view2, distinct = gather_views(outputs["view1"], outputs["view2"], distinct)
            require_negatives(len(view1), distinct)
            return contrast_loss(view1, view2, self.temperature, distinct)

        voxel_mask = region.crop(expand_mask(mask, region.grid))
        compute: dict[str, Callable[[], Tensor]] = {
            "partial_region": lambda: partial_region_loss(outputs["reconstruction"], region.crop(image), voxel_mask),
            "number": lambda: number_loss(outputs["number"], mask),
            "location": lambda: location_loss(outputs["location"], mask),
            "consistency": lambda: consistency_loss(outputs["number"], outputs["location"]),
            "contrast": contrast,
        }
        zero = image.new_zeros(())
        used = {
            name: weight > 0 and (name != "contrast" or "view2" in outputs) for name, weight in self.weights.items()
        }
        terms = {name: compute[name]() if used[name] else zero for name in LOSS_TERMS}
        total = sum((self.weights[name] * terms[name] for name in LOSS_TERMS if used[name]), zero)
        return {"loss": total, **terms}
