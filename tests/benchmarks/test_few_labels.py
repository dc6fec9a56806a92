# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import few_labels
import nibabel as nib
import numpy as np
import pytest
from few_labels_arms import read_arms
from few_labels_cells import Cell, Study, scores
from few_labels_nnunet import NnunetStudy
from few_labels_patients import TEST, TUNING, Patients, StudyError
from few_labels_report import difference, read_scores, report, report_tuning

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "few_labels_msd_hippocampus_unet"


def cell(arm: str = "scratch", labels: int = 2, seed: int = 0) -> Cell:
    return Cell(arm, labels, seed, "test", 0.003, 400, 0 if arm == "scratch" else 900)


def row(arm: str, labels: int, seed: int, dice: list[float]) -> dict[str, object]:
    text = ";".join(str(value) for value in dice)
    return {**cell(arm, labels, seed).__dict__, "dice_by_patient": text, "hd95_mm_by_patient": text}


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Patients:
    root = tmp_path_factory.mktemp("msd")
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir()
        for i in range(1, 2 * (TEST + TUNING + 30) + 1):
            (root / part / f"hippocampus_{i:03d}.nii.gz").touch()
    return Patients("msd_hippocampus", str(root))


def numbers(items: list[dict]) -> set[int]:
    return {int(Path(item["image"]).name[12:15]) for item in items}


def test_test_tuning_and_pool_share_no_head_and_pre_training_sees_the_pool_alone(patients: Patients) -> None:
    sets = [numbers(patients.items(p)) for p in (patients.test, patients.tuning, patients.pool)]
    assert [len(s) for s in sets] == [2 * TEST, 2 * TUNING, 60]
    heads = [{(n + 1) // 2 for n in s} for s in sets]
    assert not heads[0] & heads[1] and not (heads[0] | heads[1]) & heads[2]
    lists = patients.unlabelled()
    assert numbers(lists["training"]) | numbers(lists["validation"]) == sets[2]
    assert numbers(lists["held_out"]) == sets[0] | sets[1]
    assert not {(n + 1) // 2 for n in numbers(lists["training"])} & {(n + 1) // 2 for n in numbers(lists["validation"])}


def test_more_labelled_patients_contain_fewer_and_seeds_differ(patients: Patients) -> None:
    one, four, eight, all_of_them = (patients.labelled(count, seed=3) for count in (1, 4, 8, 0))
    assert [len(d) for d in (one, four, eight, all_of_them)] == [1, 4, 8, 60]
    assert eight[:4] == four and four[:1] == one
    assert len({(n + 1) // 2 for n in numbers(eight)}) == 8, "one side of each head"
    assert numbers(patients.labelled(8, seed=4)) != numbers(eight)


def test_too_few_cases_are_refused(tmp_path: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "hippocampus_001.nii.gz").touch()
    rule = "needs 60 test patients, 24 tuning patients and at least 4 others with labels in .*, got 1 in all"
    with pytest.raises(ValueError, match=rule):
        Patients("msd_hippocampus", str(tmp_path))


def test_more_labels_than_the_pool_has_are_refused(patients: Patients) -> None:
    with pytest.raises(ValueError, match=r"labels must be from 0 \(all\) to 30, the patients of the pool, got 31"):
        patients.labelled(31, seed=0)


def test_a_cell_that_fails_ends_the_study_and_loses_no_other(tmp_path: Path) -> None:
    cells = [cell(seed=seed) for seed in range(12)]
    with pytest.raises(StudyError, match="seed 0 fails"):
        few_labels.run_cells(cells, tmp_path / "cells.csv", _row_or_error, 2, "cells")
    kept = [int(row["seed"]) for row in few_labels.read_rows(tmp_path / "cells.csv")]
    assert 1 in kept and 0 not in kept and len(kept) < 11


def _row_or_error(cell: Cell) -> list[dict[str, object]]:
    if cell.seed:
        time.sleep(0.5)
        return _row(cell)
    raise StudyError("seed 0 fails")


def test_each_arm_overrides_settings_that_the_bundle_has() -> None:
    configs = ROOT / "bundles/hybridmim_msd_hippocampus_unet_segmentation/configs"
    for arm in read_arms().values():
        for step, overrides in (("pretrain", arm.pretrain), ("train", arm.train)):
            config = json.loads((configs / f"{step}.json").read_text())
            for setting in overrides or {}:
                place = config
                for name in setting.split("#"):
                    assert name in place, f"{arm.name}: {setting}"
                    place = place[name]
    assert read_arms()["scratch"].pretrain is None and read_arms()["masked_modelling"].pretrain["region"] == "full"


def test_arms_that_differ_in_fine_tuning_alone_share_a_pre_training(tmp_path: Path) -> None:
    (tmp_path / "ours.json").write_text('{"title": "ours", "pretrain": {}, "times": 3}')
    (tmp_path / "warm.json").write_text('{"title": "ours, warmed up", "like": "ours", "train": {"warmup_steps": 9}}')
    arms = read_arms(tmp_path)
    assert arms["warm"].pretrained_by == arms["ours"].pretrained_by == "ours" and arms["ours"].times == 3
    (tmp_path / "warm.json").write_text('{"title": "ours, warmed up", "like": "theirs"}')
    with pytest.raises(ValueError, match="warm.json: like must name an arm with a pre-training, got theirs"):
        read_arms(tmp_path)


def test_costs_that_are_measured_later_are_those_of_the_first_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = tmp_path / "costs.json"
    study = Study("msd_hippocampus_unet", "", tmp_path, costs, pretraining_minutes=10)
    monkeypatch.setattr(study, "_measured", lambda arm: {"hybridmim": 0.5, "masked_modelling": 0.6}[arm.name])
    study.measure("hybridmim")
    monkeypatch.setattr(study, "_measured", lambda arm: {"hybridmim": 1.0, "masked_modelling": 1.2}[arm.name])
    study.measure("masked_modelling")  # on a machine of half the speed
    study.measure("scratch")
    assert json.loads(costs.read_text()) == {"hybridmim": 0.5, "masked_modelling": 0.6}


def test_an_arm_can_spend_the_time_of_a_pre_training_on_its_fine_tuning(tmp_path: Path) -> None:
    (tmp_path / "costs.json").write_text('{"hybridmim": 0.6, "scratch_longer": 0.3}')
    study = Study("msd_hippocampus_unet", "", tmp_path, tmp_path / "costs.json", pretraining_minutes=10)
    study.patients = SimpleNamespace(labelled=lambda count, seed: [])
    epochs = {}
    for arm, extra in (("scratch", 0), ("hybridmim", 1000), ("scratch_longer", 2000)):
        study.pretrain = lambda name, seed: Path("last.pt")
        assert study.pretraining_steps(arm) == extra
        epochs[arm] = study._fine_tuning(Cell(arm, 2, 0, "test", 0.003, 400, extra), tmp_path)["epochs"]
    assert epochs == {"scratch": 8, "hybridmim": 8, "scratch_longer": 48}
    together = [row("scratch", 2, s, [0.5]) for s in (0, 1)] + [row("scratch_longer", 2, s, [0.6]) for s in (0, 1)]
    few_labels.add_rows(tmp_path / "cells.csv", together)
    report(tmp_path, {"scratch": "from scratch", "scratch_longer": "longer"})
    assert "| 2 | 400 | longer | 2 | 60.0 | 0.60 | +10.0 (+10.0 to +10.0) | - |" in (tmp_path / "table.md").read_text()


def test_the_interval_holds_the_mean_and_widens_with_what_varies() -> None:
    random = np.random.default_rng(0)
    theirs = {seed: random.normal(60, 10, 60) for seed in range(10)}
    sure = difference({s: v + 3 + random.normal(0, 0.1, 60) for s, v in theirs.items()}, theirs)
    doubtful = difference({s: v + 3 + random.normal(0, 8) for s, v in theirs.items()}, theirs)
    assert sure is not None and doubtful is not None
    assert sure.mean == pytest.approx(3, abs=0.1) and 2.9 < sure.low < sure.high < 3.1 and sure.seeds == 10
    assert doubtful.low < doubtful.mean < doubtful.high and doubtful.high - doubtful.low > 5
    seeds = {seed: np.full(60, float(seed)) for seed in range(-2, 3)}  # five, with a standard deviation of 1.58
    few = difference(seeds, {seed: np.zeros(60) for seed in seeds})
    assert few is not None and few.high == pytest.approx(2.776 * 1.58 / 5**0.5, rel=0.08), "as Student's t says"
    assert difference({0: theirs[0]}, theirs) is None, "one seed has no interval"
    assert difference({0: theirs[0], 99: theirs[1]}, theirs) is None, "only seeds that both have are paired"


def test_cells_that_are_there_are_not_computed_again(tmp_path: Path) -> None:
    path, cells = tmp_path / "cells.csv", [cell(seed=seed) for seed in range(4)]
    few_labels.run_cells(cells[:2], path, _row, 1, "cells")
    half = path.read_text()
    with path.open("a") as file:  # what a kill amid a write leaves
        file.write("scratch,2,2")
    left = few_labels.missing(cells, path)
    assert left == cells[2:]
    few_labels.run_cells(left, path, _row, 2, "cells")
    rows = few_labels.read_rows(path)
    assert path.read_text().startswith(half) and sorted(int(r["seed"]) for r in rows) == [0, 1, 2, 3]
    assert few_labels.missing(cells, path) == []


def _row(cell: Cell) -> list[dict[str, object]]:
    return [{**cell.__dict__, "dice": 0.5}]


def test_cells_at_another_rate_or_budget_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    few_labels.add_rows(path, [{**Cell("hybridmim", 2, 0, "test", 0.01, 400, 600).__dict__, "dice": 0.5}])
    few_labels.require_same_budgets([Cell("hybridmim", 2, 7, "test", 0.01, 400, 600)], path)
    few_labels.require_same_budgets([Cell("hybridmim", 4, 7, "test", 0.02, 400, 600)], path)
    for rate, pretraining in ((0.02, 600), (0.01, 1200)):
        with pytest.raises(few_labels.StudyError, match="move these rows to another file first"):
            few_labels.require_same_budgets([Cell("hybridmim", 2, 7, "test", rate, 400, pretraining)], path)


def test_scores_leave_out_classes_that_a_patient_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text("case,class,dice,hd95_mm,label_voxels\na,x,0.5,2,10\na,y,1,0,0\nb,x,0.9,1,5\nb,y,0.7,3,5\n")
    found = scores(path, {"b": ["b"], "a": ["a"]})
    assert found["dice_by_patient"] == "0.8000;0.5000" and found["dice"] == 0.65 and found["hd95_mm"] == 2.0
    assert scores(path, {"both sides": ["a", "b"]})["dice_by_patient"] == "0.7000"
    path.write_text(path.read_text() + "empty,x,0,9,0\n")
    assert scores(path, {"a": ["a"], "empty": ["empty"]})["dice_by_patient"] == "0.5000"


def test_masks_that_nnunet_wrote_are_scored_by_patient(tmp_path: Path) -> None:
    label = np.zeros((12, 12, 12), np.uint8)
    label[2:6, 2:6, 2:6], label[6:10, 2:6, 2:6] = 1, 2
    shifted = np.where(np.roll(label, 1, axis=2) == 1, 1, 0).astype(np.uint8)  # class 1 by a voxel, class 2 missed
    for folder, cases in (
        ("labels", {"a": label, "b": label, "c": label}),
        ("masks", {"a": label, "b": shifted, "c": label}),
    ):
        (tmp_path / folder).mkdir()
        for case, voxels in cases.items():
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / folder / f"{case}.nii.gz")
    study = object.__new__(NnunetStudy)
    cases = {case: {"label": str(tmp_path / "labels" / f"{case}.nii.gz")} for case in "abc"}
    study.patients = SimpleNamespace(cases=cases)
    found = study._scores(tmp_path / "masks", {"one": ["a", "b"], "two": ["c"]})
    # the first patient: 1, 1, 0.75 and 0; the second: 1 and 1
    assert found["dice_by_patient"] == "0.6875;1.0000" and found["dice"] == pytest.approx(0.84375)
    diagonal = np.sqrt(3 * 12**2)
    assert found["hd95_mm_by_patient"] == f"{(1 + diagonal) / 4:.2f};0.00"


def test_the_log_of_trials_compares_with_scratch_seed_by_seed(tmp_path: Path) -> None:
    rows = [
        {**Cell(arm, 2, seed, "tuning", 0.003, 400, 0).__dict__, "dice": dice}
        for arm, all_dice in (("scratch", (0.8, 0.7, 0.1)), ("hybridmim", (0.81, 0.73)))
        for seed, dice in zip((100, 101, 102), all_dice, strict=False)
    ]
    few_labels.add_rows(tmp_path / "tuning.csv", rows)
    report_tuning(tmp_path, {"scratch": "from scratch", "hybridmim": "HybridMIM"})
    lines = (tmp_path / "tuning.md").read_text().splitlines()
    assert lines[2] == "| 2 | 400 | HybridMIM | 0.003 | 2 | 81.0, 73.0 | 77.0 | +2.0 |"
    assert lines[3] == "| 2 | 400 | from scratch | 0.003 | 3 | 80.0, 70.0, 10.0 | 53.3 |  |"


def test_a_report_without_cells_says_so_and_writes_no_table(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="few_labels: no cells in .*cells.csv: few_labels.py run computes them"):
        few_labels.main(["report", "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_cells_of_two_budgets_are_not_put_into_one_table(tmp_path: Path) -> None:
    rows = [row("hybridmim", 1, s, [0.5, 0.6]) | {"pretraining_steps": 400 * s} for s in (1, 2)]
    few_labels.add_rows(tmp_path / "cells.csv", rows)
    with pytest.raises(
        ValueError, match="hybridmim with 1 labels and 400 steps must have one learning_rate, pretraining_steps"
    ):
        read_scores(tmp_path / "cells.csv")


def test_table_and_plot(tmp_path: Path) -> None:
    rows = [
        row(a, n, s, [g + 0.01 * s, g])
        for a, g in (("scratch", 0.5), ("hybridmim", 0.6))
        for n in (1, 0)
        for s in (0, 1)
    ]
    rows.append(row("scratch", 1, 0, [0.3, 0.3]) | {"steps": 100, "learning_rate": 0.006})
    few_labels.add_rows(tmp_path / "cells.csv", rows)
    report(tmp_path, {name: arm.title for name, arm in read_arms().items()})
    table = (tmp_path / "table.md").read_text()
    assert (
        "| 1 | 400 | HybridMIM | 2 | 60.2 | 0.60 | +10.0 (+10.0 to +10.0) | - |" in table
        and "| all | 400 | from scratch |" in table
        and "| 1 | 100 | from scratch | 1 | 30.0 |" in table
    )
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_the_processes_of_a_killed_study_end_with_it(tmp_path: Path) -> None:
    """Else they would hold the folders that the next command needs."""
    script = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import few_labels
def work(number):
    Path({str(tmp_path)!r}, f"{{os.getpid()}}.pid").touch()
    time.sleep(60)
list(few_labels.pool(2).map(work, range(2)))
"""
    command = subprocess.Popen([sys.executable, "-c", script])
    wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    command.kill()
    command.wait()
    workers = [Path("/proc", path.stem) for path in tmp_path.glob("*.pid")]
    wait_until(lambda: not any(worker.exists() for worker in workers))


def wait_until(condition: Callable[[], bool], seconds: float = 50) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
