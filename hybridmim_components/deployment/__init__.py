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
