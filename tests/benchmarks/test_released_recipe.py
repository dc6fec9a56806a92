# SPDX-License-Identifier: Apache-2.0

"""What ours is measured against computes what the release computes, where the two can be compared."""

from __future__ import annotations

import torch
from monai.networks.nets import BasicUNet
from released_recipe import ReleasedStep, contrast, count_patches, hide_patches, place_patches

from hybridmim_components.method.losses import contrast_loss
from hybridmim_components.method.masking import MaskGrid


def test_hidden_patches_are_zero_and_the_others_stay() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 1, 48, 48, 48) + 0.5
    masked, mask = hide_patches(image)
    assert mask.shape == (2, 27) and (mask.sum(1) == 27 - int(27 * 0.6)).all()
    for sample in range(2):
        for number in range(27):
            i, j, k = number // 9, number // 3 % 3, number % 3
            box = (sample, 0, *(slice(16 * a, 16 * a + 16) for a in (i, j, k)))
            expected = torch.zeros(16, 16, 16) if mask[sample, number] else image[box]
            assert torch.equal(masked[box], expected)


def test_labels_count_the_runs_of_eight() -> None:
    mask = (torch.rand(2, 216) < 0.4).float()
    assert torch.equal(place_patches(mask).flatten(1), mask)
    assert torch.equal(count_patches(mask).float(), place_patches(mask).sum(-1))


def test_the_contrast_is_ours() -> None:
    one, other = torch.rand(3, 8), torch.rand(3, 8)
    assert torch.allclose(contrast(one, other), contrast_loss(one, other, 0.5), atol=1e-6)


def test_a_step_trains_encoder_and_decoder() -> None:
    step = ReleasedStep(BasicUNet(features=(4, 4, 4, 4, 8, 4), dropout=0.1), MaskGrid(96, 32, 16))
    loss = step(torch.rand(2, 1, 96, 96, 96))
    loss.backward()
    idle = [name for name, p in step.named_parameters() if p.grad is None]
    assert bool(loss.isfinite()) and idle == ["network.final_conv.weight", "network.final_conv.bias"]
