# SPDX-License-Identifier: Apache-2.0

"""Handler that writes Dice and HD95 of an evaluation to two CSV files, and the files of its cases to a JSON file."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import CommonKeys

from hybridmim_components.data.datasets import holds_hounsfield, label_names
from hybridmim_components.data.layouts.dataset_json import exchanged_names
from hybridmim_components.data.volumes import image_files
from hybridmim_components.system.files import file_state, write_text
from hybridmim_components.weights.case_groups import GROUPS, case_name
from hybridmim_components.workflow.segmentation_scores import ClassScore, MeanScore, mean_scores, segmentation_scores

__all__ = ["EvaluationReport"]

_CASE_COLUMNS = ("case", "class", "dice", "hd95_mm", "label_voxels", "pred_voxels", "flag", "figures")
_SUMMARY_COLUMNS = ("class", "dice", "hd95_mm", "cases", "absent_cases", "figures")
_Case = tuple[str, list[ClassScore]]

logger = logging.getLogger(__name__)


class EvaluationReport:
    """Handler that rewrites ``<prefix>_cases.csv`` after each case and writes ``<prefix>_summary.csv`` at the end.

    The summary never averages cases that the weights have seen with cases that they have not seen: each group of cases
    has a block of its own. A block has one row per class with the means over those cases whose label contains the
    class. ``cases`` counts these cases, ``absent_cases`` the others. The last row, ``mean``, averages the classes that
    have a mean; its ``cases`` counts the cases whose label contains any class.

    Each item of the engine's decollated output must hold ``pred`` and ``label``: (C, H, W, D), one channel of zeros and
    ones per class, on the grid of the original label. The label must be a MetaTensor whose affine is in mm. The name of
    a case is the ``case_id`` of the batch item, or else that of the label's file. In a multi-process run only rank 0
    writes: its own cases as they come, and the cases of all ranks at the end.

    With ``files``, ``<prefix>_files.json`` tells the report page where the images are: ``labels`` (names by label
    value), ``hounsfield`` (whether the images hold HU), ``cases``, each with its ``image`` (list of files),
    ``label`` and ``label_state``, and ``weights`` with ``file`` and ``state``. A state is size and time of a file, so
    that the page can tell what was replaced since. Paths are absolute.

    Args:
        output_dir: folder of the files, created if missing.
        class_names: one name per class, without background.
        prefix: beginning of the file names.
        figures: what the weights have seen of each case, by the name of the case: one of :data:`.case_groups.GROUPS`.
            It is written into each row; a case without an entry is ``unknown``.
        include_background_channel: True: channel 0 of ``pred`` and ``label`` is background and is not scored (softmax).
            False: every channel is a class (sigmoid).
        files: items of the data list, with ``image`` and ``label``; None: no JSON file.
        dataset: name of the data set, see :func:`.datasets.dataset_of`; needed with ``files``.
        dataset_dir: folder of the data set; needed with ``files``.
        weights: file of the weights, which the JSON file then describes.

    Raises:
        ValueError: if ``class_names`` is not a sequence of distinct names, or ``figures`` has an unknown group.

    Example:
        >>> label = MetaTensor(torch.zeros(1, 4, 4, 4))
        >>> label[0, :2] = 1
        >>> pred = label.roll(1, dims=1)
        >>> evaluator = Engine(lambda engine, batch: [{"pred": pred, "label": label}])
        >>> EvaluationReport("out", ["spleen"], include_background_channel=False).attach(evaluator)
        >>> _ = evaluator.run([[{"case_id": "spleen_1"}]])
        >>> print(Path("out/evaluation_cases.csv").read_text(), end="")
        case,class,dice,hd95_mm,label_voxels,pred_voxels,flag,figures
        spleen_1,spleen,0.5,1.0,32,32,,unknown
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        prefix: str = "evaluation",
        figures: Mapping[str, str] | None = None,
        include_background_channel: bool = True,
        files: Sequence[Mapping[str, Any]] | None = None,
        dataset: str = "",
        dataset_dir: str | Path = "",
        weights: str | Path | None = None,
    ) -> None:
        if isinstance(class_names, str) or not class_names or len(set(class_names)) != len(class_names):
            raise ValueError(f"class_names must be a list of distinct names, got {class_names!r}")
        if not isinstance(figures or {}, Mapping) or not set((figures or {}).values()) <= set(GROUPS):
            raise ValueError(f"figures must be one of {GROUPS} by the name of each case, got {figures!r}")
        self.cases_path, self.summary_path, self.files_path = (
            Path(output_dir) / f"{prefix}_{name}" for name in ("cases.csv", "summary.csv", "files.json")
        )
        self.class_names = tuple(class_names)
        self.figures = figures or {}
        self.first_channel = int(include_background_channel)
        self.cases: list[_Case] = []
        self.files = _described(files, dataset, dataset_dir) if files is not None else None
        if self.files and weights:
            self.files["weights"] = {"file": os.path.abspath(weights), "state": file_state(weights)}
        _compare_names(self.class_names, self.files["labels"] if self.files else {}, dataset_dir)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator, which may run several times; each run starts a new report."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self) -> None:
        self.cases = []
        if self.files and idist.get_rank() == 0:
            write_text(self.files_path, json.dumps(self.files, indent=2) + "\n")

    def _collect(self, engine: Engine) -> None:
        batch, output = engine.state.batch, engine.state.output
        if not isinstance(output, list) or not isinstance(batch, list):
            raise ValueError(f"the evaluator's output must be decollated (decollate=True), got {type(output).__name__}")
        for item, result in zip(batch, output, strict=True):
            self.cases.append(self._score(item, result))
            if idist.get_rank() == 0:
                self._write_cases()

    def _score(self, item: Mapping[str, Any], result: Mapping[str, Any]) -> _Case:
        pred, label = result[CommonKeys.PRED], result[CommonKeys.LABEL]
        if not isinstance(label, MetaTensor):
            raise ValueError(f"label must be a MetaTensor, whose affine has the spacing, got {type(label).__name__}")
        name = case_name({**item, "label": None}, label.meta.get("filename_or_obj"))
        first, spacing = self.first_channel, [float(mm) for mm in label.pixdim]
        try:
            return name, segmentation_scores(pred[first:], label[first:], spacing, self.class_names)
        except ValueError as error:
            raise ValueError(f"case {name}: {error}") from error

    def _finish(self) -> None:
        self.cases = _merge_ranks(cast(list[list[_Case]], idist.all_gather(self.cases)))
        if not self.cases:
            raise ValueError(f"the data list must have at least one case, got none to write {self.summary_path} from")
        if idist.get_rank() != 0:
            return
        if len({name for name, _ in self.cases}) < len(self.cases):
            logger.warning("some cases in %s have the same name: give the batch items a case_id", self.cases_path)
        summary = {
            group: self._means(group) for group in GROUPS if any(self._group(name) == group for name, _ in self.cases)
        }
        self._write_cases()
        self._write_summary(summary)
        self._log(summary)

    def _group(self, name: str) -> str:
        return self.figures.get(name, "unknown")

    def _means(self, group: str) -> list[MeanScore]:
        cases = [case for case in self.cases if self._group(case[0]) == group]
        means = mean_scores(score for _, scores in cases for score in scores)
        return [*means, _mean_over_classes(means, cases)]

    def _write_cases(self) -> None:
        # a summary must never lie beside the cases of another run
        self.summary_path.unlink(missing_ok=True)
        rows = (
            (name, s.class_name, *_rounded(s), s.label_voxels, s.pred_voxels, s.flag, self._group(name))
            for name, scores in self.cases
            for s in scores
        )
        write_text(self.cases_path, _table(_CASE_COLUMNS, rows))

    def _write_summary(self, summary: Mapping[str, Sequence[MeanScore]]) -> None:
        rows = (
            (m.class_name, *_rounded(m), m.cases, m.absent_cases, group)
            for group, means in summary.items()
            for m in means
        )
        write_text(self.summary_path, _table(_SUMMARY_COLUMNS, rows))

    def _log(self, summary: Mapping[str, Sequence[MeanScore]]) -> None:
        width = max(len("class"), *(len(name) for name in self.class_names))
        for group, means in summary.items():
            logger.info("%s (%s figures)", self.summary_path, group)
            logger.info("%-*s  %6s  %9s  %5s  %6s", width, "class", "dice", "hd95 [mm]", "cases", "absent")
            for m in means:
                line = "%-*s  %6.4f  %9.2f  %5d  %6d"
                logger.info(line, width, m.class_name, m.dice, m.hd95_mm, m.cases, m.absent_cases)


def _described(items: Sequence[Mapping[str, Any]], dataset: str, dataset_dir: str | Path) -> dict[str, Any]:
    cases = {
        case_name(item): {
            "image": [os.path.abspath(file) for file in image_files(item["image"])],
            "label": os.path.abspath(item["label"]),
            "label_state": file_state(item["label"]),
        }
        for item in items
    }
    labels: dict[str, str] = {}
    hounsfield = False
    try:
        labels = {str(value): name for value, name in label_names(dataset, dataset_dir).items() if value}
        hounsfield = holds_hounsfield(dataset, dataset_dir)
    except (OSError, ValueError) as error:  # another task of MSD without its dataset.json
        logger.warning("A report will show the cases without names of labels: %s", error)
    return {"labels": labels, "hounsfield": hounsfield, "cases": cases}


def _compare_names(class_names: Sequence[str], labels: Mapping[str, str], dataset_dir: str | Path) -> None:
    """Warn if classes seem to have the names of other labels, where each label value is a class."""
    named, ours = {int(value): name for value, name in labels.items()}, dict(enumerate(class_names, 1))
    for one, other in exchanged_names(ours, named) if set(named) == set(ours) else []:
        logger.warning(
            "class_names seem to be exchanged: labels %d and %d are %r and %r in %s, class_names have %r and %r",
            *(one, other, named[one], named[other], dataset_dir, ours[one], ours[other]),
        )


def _merge_ranks(cases_by_rank: Iterable[list[_Case]]) -> list[_Case]:
    merged: list[_Case] = []
    for cases in cases_by_rank:
        # a distributed sampler may give the same case to two ranks, so that all have equally many
        merged += [case for case in cases if case not in merged]
    return merged


def _mean_over_classes(means: Sequence[MeanScore], cases: Sequence[_Case]) -> MeanScore:
    known = [m for m in means if m.cases]
    present = sum(any(score.label_voxels for score in scores) for _, scores in cases)
    dice = sum(m.dice for m in known) / len(known) if known else math.nan
    hd95 = sum(m.hd95_mm for m in known) / len(known) if known else math.nan
    return MeanScore("mean", dice, hd95, present, len(cases) - present)


def _rounded(score: ClassScore | MeanScore) -> tuple[float, float]:
    return round(score.dice, 6), round(score.hd95_mm, 4)


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
