# SPDX-License-Identifier: Apache-2.0

"""Export of a trained bundle to TorchScript, ONNX or OpenVINO, verified against PyTorch."""

from __future__ import annotations

from hybridmim_components.deployment.comparison import Comparison, compare, phantom_images
from hybridmim_components.deployment.export import ExportReport, export, export_network
from hybridmim_components.deployment.formats import FORMATS, DeploymentFormat
from hybridmim_components.deployment.staged_norm import StagedInstanceNorm, with_staged_norms
from hybridmim_components.deployment.trained_bundle import TrainedBundle

__all__ = [
    "FORMATS",
    "Comparison",
    "DeploymentFormat",
    "ExportReport",
    "StagedInstanceNorm",
    "TrainedBundle",
    "compare",
    "export",
    "export_network",
    "phantom_images",
    "with_staged_norms",
]
