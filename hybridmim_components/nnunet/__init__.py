# SPDX-License-Identifier: Apache-2.0

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
