# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import AsDiscreted, Compose

from hybridmim_components.workflow.handlers.evaluation_report import EvaluationReport

SPACING = (1.0, 2.0, 3.0)
SHAPE = (12, 10, 8)
CLASSES = ["liver", "tumour"]
DIAGONAL = float(np.linalg.norm(np.multiply(SHAPE, SPACING)))


def case(name: str, liver_at: int, tumour: bool, **more: Any) -> dict[str, Any]:
    """A truth with a liver at 2 (and a tumour), and an image that says where the network finds a liver."""
    affine = torch.diag(torch.tensor([*SPACING, 1.0], dtype=torch.float64))
    label, image = torch.zeros(1, *SHAPE), torch.zeros(1, *SHAPE)
    label[:, 2:6, 2:6, 2:6] = 1
    image[:, liver_at : liver_at + 4, 2:6, 2:6] = 1
    if tumour:
        label[:, 8:10, 2:4, 2:4] = 2
    meta = {"filename_or_obj": f"/data/{name}.nii.gz"}
    return {"image": MetaTensor(image), "label": MetaTensor(label, affine=affine, meta=meta), **more}


class Argmax(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        labels = image.as_subclass(torch.Tensor)[:, 0].long()
        return torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()


def evaluate(report: EvaluationReport, cases: Sequence[dict[str, Any]], batch_size: int = 2) -> None:
    post: list[Any] = [AsDiscreted("pred", argmax=True, to_onehot=3), AsDiscreted("label", to_onehot=3)]
    if not report.first_channel:
        post.append(lambda item: item | {key: item[key][1:] for key in ("pred", "label")})
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(cases), batch_size=batch_size),
        network=Argmax(),
        postprocessing=Compose(post),
        val_handlers=[report],
    )
    evaluator.run()


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


CASES = [case("case_1", 2, False), case("case_2", 4, True), case("case_3", 2, False)]


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_case_and_the_means(
    tmp_path: Path, background: bool, batch_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    figures = {f"case_{i}": "validation" for i in (1, 2, 3)}
    report = EvaluationReport(tmp_path / "new", CLASSES, figures=figures, include_background_channel=background)
    with caplog.at_level(logging.INFO):
        evaluate(report, CASES, batch_size)
    rows = read(tmp_path / "new" / "evaluation_cases.csv")
    columns = ["case", "class", "dice", "hd95_mm", "label_voxels", "pred_voxels", "flag", "figures"]
    assert list(rows[0]) == columns
    assert [tuple(row.values())[:7] for row in rows] == [
        ("case_1", "liver", "1.0", "0.0", "64", "64", ""),
        ("case_1", "tumour", "1.0", "0.0", "0", "0", "absent"),
        ("case_2", "liver", "0.5", "2.0", "64", "64", ""),
        ("case_2", "tumour", "0.0", str(round(DIAGONAL, 4)), "8", "0", "missed"),
        ("case_3", "liver", "1.0", "0.0", "64", "64", ""),
        ("case_3", "tumour", "1.0", "0.0", "0", "0", "absent"),
    ]
    liver, tumour, mean = read(tmp_path / "new" / "evaluation_summary.csv")
    assert list(liver) == ["class", "dice", "hd95_mm", "cases", "absent_cases", "figures"]
    assert list(liver.values()) == ["liver", "0.833333", "0.6667", "3", "0", "validation"]
    assert list(tumour.values()) == ["tumour", "0.0", str(round(DIAGONAL, 4)), "1", "2", "validation"]
    assert list(mean.values()) == ["mean", "0.416667", str(round((DIAGONAL + 2 / 3) / 2, 4)), "3", "0", "validation"]
    assert {file.name for file in report.cases_path.parent.iterdir()} == {
        "evaluation_cases.csv",
        report.summary_path.name,
    }
    assert "liver   0.8333       0.67      3       0" in caplog.text


def test_the_files_of_the_cases_are_kept_for_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    items = [{"case_id": f"case_{i}", "image": ["a.nii", "b.nii"], "label": "l.nii"} for i in (1, 2, 3)]
    evaluate(EvaluationReport("out", CLASSES, files=items, dataset="msd_liver"), CASES)
    found = json.loads((tmp_path / "out" / "evaluation_files.json").read_text())
    assert found["labels"] == {"1": "liver", "2": "tumour"} and found["hounsfield"] is True
    expected = {"image": [str(tmp_path / name) for name in ("a.nii", "b.nii")], "label": str(tmp_path / "l.nii")}
    expected |= {"label_state": []}
    assert found["cases"] == {f"case_{i}": expected for i in (1, 2, 3)}


def test_exchanged_names_of_classes_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = {"0": "background", "1": "Posterior hippocampus", "2": "Anterior hippocampus"}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    arguments: dict[str, Any] = {"files": [], "dataset": "msd_mine", "dataset_dir": tmp_path}
    EvaluationReport(tmp_path, ["posterior", "anterior"], **arguments)
    EvaluationReport(tmp_path, ["one", "two"], **arguments)
    assert not caplog.records
    EvaluationReport(tmp_path, ["anterior", "posterior"], **arguments)
    assert "labels 1 and 2 are 'Posterior hippocampus' and 'Anterior hippocampus'" in caplog.text


def test_a_data_set_without_names_of_labels_can_be_evaluated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = [{"case_id": "case_1", "image": "a.nii", "label": "l.nii"}]
    report = EvaluationReport(tmp_path, CLASSES, files=items, dataset="msd_other", dataset_dir=tmp_path / "nowhere")
    evaluate(report, CASES[:1])
    found = json.loads((tmp_path / "evaluation_files.json").read_text())
    assert found["labels"] == {} and list(found["cases"]) == ["case_1"] and "without names of labels" in caplog.text


def test_spacing_is_that_of_an_oblique_affine(tmp_path: Path) -> None:
    item = case("case_1", 3, False)
    turn = torch.tensor([[0.6, -0.8, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    item["label"].affine = turn @ torch.diag(torch.tensor([2.5, 1.0, 1.0, 1.0], dtype=torch.float64))
    evaluate(EvaluationReport(tmp_path, CLASSES), [item])
    assert float(read(tmp_path / "evaluation_cases.csv")[0]["hd95_mm"]) == pytest.approx(2.5)


def test_case_id_prefix_and_figures(tmp_path: Path) -> None:
    report = EvaluationReport(tmp_path, CLASSES, prefix="test", figures={"a/1": "training", "b/1": "training"})
    evaluate(report, [case("imaging", 2, True, case_id="a/1"), case("imaging", 2, True, case_id="b/1")])
    rows = read(tmp_path / "test_cases.csv")
    assert [row["case"] for row in rows] == ["a/1", "a/1", "b/1", "b/1"]
    assert {row["figures"] for row in rows + read(tmp_path / "test_summary.csv")} == {"training"}


def test_seen_and_unseen_cases_are_never_averaged_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = EvaluationReport(tmp_path, CLASSES, figures={"case_2": "unseen", "case_1": "training"})
    with caplog.at_level(logging.INFO):
        evaluate(report, CASES)
    rows = read(tmp_path / "evaluation_cases.csv")
    assert [(r["case"], r["figures"]) for r in rows[::2]] == [
        ("case_1", "training"),
        ("case_2", "unseen"),
        ("case_3", "unknown"),
    ]
    summary = read(tmp_path / "evaluation_summary.csv")
    assert [(r["figures"], r["class"], r["dice"], r["cases"]) for r in summary] == [
        ("unseen", "liver", "0.5", "1"),
        ("unseen", "tumour", "0.0", "1"),
        ("unseen", "mean", "0.25", "1"),
        ("training", "liver", "1.0", "1"),
        ("training", "tumour", "nan", "0"),
        ("training", "mean", "1.0", "1"),
        ("unknown", "liver", "1.0", "1"),
        ("unknown", "tumour", "nan", "0"),
        ("unknown", "mean", "1.0", "1"),
    ]
    assert all(f"({group} figures)" in caplog.text for group in ("unseen", "training", "unknown"))


def test_equal_names_are_kept_and_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluate(EvaluationReport(tmp_path, CLASSES), [case("same", 2, False), case("same", 2, False)])
    assert read(tmp_path / "evaluation_summary.csv")[0]["cases"] == "2"
    assert "have the same name" in caplog.text


def test_each_run_starts_afresh(tmp_path: Path) -> None:
    report = EvaluationReport(tmp_path, CLASSES)
    evaluate(report, CASES)
    evaluate(report, CASES[:1])
    assert {row["case"] for row in read(tmp_path / "evaluation_cases.csv")} == {"case_1"}
    tumour = read(tmp_path / "evaluation_summary.csv")[1]
    assert (tumour["dice"], tumour["cases"], tumour["absent_cases"]) == ("nan", "0", "1")


def test_a_case_that_fails_leaves_the_earlier_ones_and_no_stale_summary(tmp_path: Path) -> None:
    report = EvaluationReport(tmp_path, CLASSES)
    evaluate(report, CASES)
    bad = case("case_9", 2, False)
    bad["image"] = MetaTensor(torch.zeros(1, 4, 4, 4))
    with pytest.raises(ValueError, match="case case_9: pred must have the shape of label"):
        evaluate(report, [CASES[0], bad], batch_size=1)
    assert {row["case"] for row in read(tmp_path / "evaluation_cases.csv")} == {"case_1"}
    assert not (tmp_path / "evaluation_summary.csv").exists()


def test_no_cases(tmp_path: Path) -> None:
    engine = Engine(lambda engine, batch: [])
    EvaluationReport(tmp_path, CLASSES).attach(engine)
    with pytest.raises(ValueError, match="the data list must have at least one case, got none"):
        engine.run([[]])
    assert not list(tmp_path.iterdir())


def test_output_must_be_decollated_and_labels_must_have_a_name_and_an_affine(tmp_path: Path) -> None:
    report = EvaluationReport(tmp_path, CLASSES)
    with pytest.raises(ValueError, match="must be decollated"):
        report._collect(SimpleNamespace(state=SimpleNamespace(batch={}, output={})))
    label = torch.zeros(3, 2, 2, 2)
    with pytest.raises(ValueError, match="label must be a MetaTensor.*got Tensor"):
        report._score({}, {"pred": label, "label": label})
    with pytest.raises(ValueError, match="a case needs a name"):
        report._score({}, {"pred": label, "label": MetaTensor(label)})


@pytest.mark.parametrize(
    "change",
    [{"class_names": n} for n in ("liver", [], ["a", "a"])] + [{"figures": "good"}, {"figures": {"a": "good"}}],
)
def test_bad_arguments_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be .*, got"):
        EvaluationReport(**{"output_dir": tmp_path, "class_names": CLASSES, **change})


def _run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    # three cases on two ranks: the sampler gives case_1 to both
    evaluate(EvaluationReport(folder, CLASSES), [CASES[0], CASES[2]] if rank == 0 else [CASES[1], CASES[0]])


def test_ranks_are_gathered_and_a_padded_case_counts_once(tmp_path: Path) -> None:
    # forked, because a spawned process cannot import this test module by name
    with idist.Parallel(backend="gloo", nproc_per_node=2, start_method="fork") as parallel:
        parallel.run(_run_rank, str(tmp_path))
    assert [row["case"] for row in read(tmp_path / "evaluation_cases.csv")[::2]] == ["case_1", "case_3", "case_2"]
    assert read(tmp_path / "evaluation_summary.csv")[0]["cases"] == "3"
