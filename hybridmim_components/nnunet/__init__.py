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

"""A bridge to nnU-Net v2: pre-train the network of its plans and train it there, or start a bundle from its weights.

The extra ``nnunet`` installs nnU-Net, which is imported only when it is used.
"""

from __future__ import annotations

from hybridmim_components.nnunet.plans import Plan, grid_of_plan, network_of_plan, read_plan, require_nnunet
from hybridmim_components.nnunet.preprocessed import PreprocessedCrops, PreprocessedPool, fold_cases, preprocessed_lists
from hybridmim_components.nnunet.pretraining import pretrain, pretraining_config, training_command, write_checkpoint
from hybridmim_components.nnunet.to_dynunet import convert_to_dynunet

__all__ = [
    "Plan",
    "PreprocessedCrops",
    "PreprocessedPool",
    "convert_to_dynunet",
    "fold_cases",
    "grid_of_plan",
    "network_of_plan",
    "preprocessed_lists",
    "pretrain",
    "pretraining_config",
    "read_plan",
    "require_nnunet",
    "training_command",
    "write_checkpoint",
]
