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

"""Handlers that MONAI and ignite lack: checkpoints, weights with a recipe, learning curves, previews, case scores."""

from __future__ import annotations

from hybridmim_components.workflow.handlers.best_weights import BestWeights, LastWeights
from hybridmim_components.workflow.handlers.checkpoints import Checkpoints
from hybridmim_components.workflow.handlers.evaluation_report import EvaluationReport
from hybridmim_components.workflow.handlers.history import History
from hybridmim_components.workflow.handlers.learning_verdict import LearningVerdict
from hybridmim_components.workflow.handlers.non_finite import DropNonFiniteSteps
from hybridmim_components.workflow.handlers.preview import ReconstructionPreview
from hybridmim_components.workflow.handlers.progress import TerminalProgressBar
from hybridmim_components.workflow.handlers.seeded_steps import SeededSteps
from hybridmim_components.workflow.handlers.validation import IntervalAndFinalValidation

__all__ = [
    "BestWeights",
    "Checkpoints",
    "DropNonFiniteSteps",
    "EvaluationReport",
    "History",
    "IntervalAndFinalValidation",
    "LearningVerdict",
    "ReconstructionPreview",
    "SeededSteps",
    "TerminalProgressBar",
    "LastWeights",
]
