# Copyright 2026 HybridMIM bundles contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


"""Weights whose scale does not affect a network's output, since an instance normalisation follows them."""

from __future__ import annotations

from monai.networks.blocks import Convolution, UnetBasicBlock, UnetResBlock
from torch import nn
from torch.nn import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d

__all__ = ["scale_free_weights"]

_INSTANCE_NORMS = (InstanceNorm1d, InstanceNorm2d, InstanceNorm3d)


def scale_free_weights(network: nn.Module) -> list[str]:
    """List the convolution weights in MONAI's blocks that are directly followed by an instance normalisation.

    The normalisation divides by the standard deviation of the response, so scaling the weight does not change the
    output. It does change the speed of learning: a step of Adam has the same size for large and small weights, so it
    changes a large weight relatively less (the effective learning rate of Hoffer et al.,
    https://arxiv.org/abs/1803.01814).

    Args:
        network: any module; only blocks ``Convolution``, ``UnetBasicBlock`` and ``UnetResBlock`` are searched.

    Returns:
        Names as in the state dict.
    """
    names = []
    for name, module in network.named_modules():
        if isinstance(module, Convolution):
            after = dict(module.named_children()).get("adn", nn.Identity())
            normed = {"conv": next(after.children(), None)}
        elif isinstance(module, UnetBasicBlock | UnetResBlock):
            normed = {f"conv{i}.conv": getattr(module, f"norm{i}", None) for i in (1, 2, 3)}
        else:
            continue
        prefix = f"{name}." if name else ""
        names += [f"{prefix}{conv}.weight" for conv, norm in normed.items() if isinstance(norm, _INSTANCE_NORMS)]
    return names
