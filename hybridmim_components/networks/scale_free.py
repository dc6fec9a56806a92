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


"""Weights whose scale a network's output does not depend on, since an instance normalisation follows."""

from __future__ import annotations

from monai.networks.blocks import Convolution, UnetBasicBlock, UnetResBlock
from torch import nn
from torch.nn import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d

__all__ = ["scale_free_weights"]

_INSTANCE_NORMS = (InstanceNorm1d, InstanceNorm2d, InstanceNorm3d)


def scale_free_weights(network: nn.Module) -> list[str]:
    """Names of the convolutions' weights that an instance normalisation follows at once, in MONAI's blocks.

    The normalisation divides by the standard deviation of the response, so a factor on the weight changes no output. It
    changes how much is learnt: a step of Adam is as large for a large weight as for a small one, and moves the large
    one less (the effective learning rate of Hoffer et al., https://arxiv.org/abs/1803.01814).

    Args:
        network: any module; its blocks ``Convolution``, ``UnetBasicBlock`` and ``UnetResBlock`` are looked at.

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
