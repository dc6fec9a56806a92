# SPDX-License-Identifier: Apache-2.0

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
