# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest
import torch
from torch import nn

from hybridmim_components.deployment import StagedInstanceNorm, with_staged_norms


@pytest.mark.parametrize("affine", [True, False])
def test_staged_norm_is_instance_normalization(affine: bool) -> None:
    torch.manual_seed(0)
    norm = nn.InstanceNorm3d(3, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 3, 4, 5, 6) * 2 + 1
    torch.testing.assert_close(StagedInstanceNorm(norm)(x), norm(x), rtol=1e-5, atol=1e-5)


def test_staged_norms_replace_all_but_running_statistics() -> None:
    network = nn.Sequential(nn.InstanceNorm3d(2), nn.Sequential(nn.InstanceNorm3d(2, track_running_stats=True)))
    copy = with_staged_norms(network)
    assert [type(m) for m in (copy[0], copy[1][0])] == [StagedInstanceNorm, nn.InstanceNorm3d]
    assert isinstance(network[0], nn.InstanceNorm3d)


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_staged_norm_keeps_openvino_exact() -> None:
    """A nearly constant channel, such as one that sees the air around a patient."""
    openvino = pytest.importorskip("openvino", reason="openvino is not installed: requirements-deployment.lock")
    torch.manual_seed(0)
    norm, x = nn.InstanceNorm3d(16).eval(), torch.rand(1, 16, 64, 64, 64) * 0.01 + 3

    def error_of(module: nn.Module) -> float:
        # one compiled model at a time: of two, freed in the order in which they were made, the second one leaves the
        # process the first one's signal stack, which is gone, and the next signal ends it
        model = openvino.convert_model(module, example_input=x)
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        logits = torch.from_numpy(compiled(x.numpy())[0].copy())
        return float((logits - norm(x.double())).abs().max())

    errors = [error_of(module) for module in (norm, with_staged_norms(nn.Sequential(norm)))]
    assert errors[1] < 3e-4 and errors[1] < errors[0]
