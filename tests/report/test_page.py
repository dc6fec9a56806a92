# SPDX-License-Identifier: Apache-2.0

"""The page holds what the run left, says what is missing, keeps to its size, and carries its licences."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from hybridmim_components.report import write_report
from hybridmim_components.report.case_volumes import read_case
from hybridmim_components.system.files import file_state
from hybridmim_components.weights import save_weights
from hybridmim_components.workflow.run_record import RunRecord

STATIC = files("hybridmim_components.report").joinpath("static")


def viewer_data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def unpacked(text: str) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def outside(page: str) -> list[str]:
    """What the page's own markup would load from elsewhere."""
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    return [found for found in re.findall(r'(?:src|href)="([^"#]*)"', markup) if not found.startswith("data:")]


def test_the_page_has_every_section_and_loads_nothing_from_elsewhere(whole_run: Callable[..., Path]) -> None:
    run = whole_run(location_share=1.01)
    with RunRecord(run / "train", "train", run / "models") as record:
        record.stopped = True
    path = write_report(run, title="A <run>")
    page = path.read_text(encoding="utf-8")
    assert path == run / "report.html" and "<h1>A &lt;run&gt;</h1>" in page
    assert outside(page) == ["https://github.com/niivue/niivue"]  # a link, which nothing follows by itself
    assert "and did not learn location (1.01)." in page
    sentence = (
        "The mean Dice of 3 case(s) is 0.500. The network was not trained on these cases, but they chose the best"
    )
    assert sentence in page
    # the best of the two validations, twelve of thirty previews, and the last one is shown
    assert re.search(r"<td>0\.3000</td><td>3</td>", page)
    epochs = re.findall(r'data-epoch="(\d+)"( hidden)?', page)
    assert len(epochs) == 12 and epochs[0] == ("1", " hidden") and epochs[-1] == ("30", "")
    assert page.count("<svg") == 4 and "#010203" not in page
    assert '<td class="text">stopped</td>' in page and "torch" in page
    assert "no record of a check of volumes" in page


def test_the_volumes_of_a_case_are_those_of_its_files(whole_run: Callable[..., Path]) -> None:
    run = whole_run(cases=2)
    case = viewer_data(write_report(run).read_text(encoding="utf-8"))["cases"][0]
    known = json.loads((run / "evaluate" / "evaluation_files.json").read_text())["cases"]["case_001"]
    truth, mask = (
        nib.load(p).get_fdata() for p in (known["label"], run / "evaluate" / "masks" / "case_001_seg.nii.gz")
    )
    data = case["data"]
    assert case["name"] == "case_001" and not data["reduced"] and data["spacing"] == [2.0, 1.0, 1.5]
    assert np.array_equal(unpacked(data["truth"]).get_fdata(), truth)
    assert np.array_equal(unpacked(data["prediction"]).get_fdata(), mask)
    assert data["focus"] == [3, 3, 1]
    assert np.array_equal(unpacked(data["errors"]).get_fdata(), (truth > 0) & (mask == 0))
    image, shown = nib.load(known["image"][0]), unpacked(data["images"][0])
    assert shown.get_data_dtype() == np.uint8 and np.allclose(shown.affine, image.affine)
    values = image.get_fdata().clip(max=np.percentile(image.get_fdata(), 99.9))
    assert np.abs(shown.get_fdata() - values).max() < np.ptp(values) / 255
    assert case["classes"][0]["truth"] == pytest.approx((truth == 1).sum() * 3 / 1000)
    assert data["truth_ml"] == pytest.approx((truth > 0).sum() * 3 / 1000)


def test_large_volumes_are_shown_coarser_and_keep_their_place_and_their_figures(whole_run: Callable[..., Path]) -> None:
    run = whole_run(cases=1)
    known = json.loads((run / "evaluate" / "evaluation_files.json").read_text())["cases"]["case_001"]
    mask = run / "evaluate" / "masks" / "case_001_seg.nii.gz"
    whole, coarse = (read_case(known["image"], known["label"], mask, True, most) for most in (10**6, 400))
    assert coarse.reduced and not whole.reduced
    shown, full = unpacked(coarse.images[0]), unpacked(whole.images[0])
    assert np.prod(shown.shape) <= 400 and shown.get_data_dtype() == np.int16
    assert coarse.truth_ml == whole.truth_ml > 0 and list(coarse.windows[0])[0] == "soft tissue"
    # all errors lie in one slice of the full volume, and none is lost
    assert set(np.argwhere(unpacked(whole.errors).get_fdata())[:, 0]) == {3}
    assert unpacked(coarse.errors).get_fdata().any()
    centre = [image.affine @ [*((np.array(image.shape) - 1) / 2), 1] for image in (shown, full)]
    assert np.abs(centre[0] - centre[1]).max() < max(coarse.spacing)


def test_many_cases_classes_and_channels_fit_and_the_rest_is_named(whole_run: Callable[..., Path]) -> None:
    run = whole_run(cases=300, classes=13, channels=4)
    niivue = len(gzip.decompress(STATIC.joinpath("niivue.umd.js.gz").read_bytes()))
    limit = niivue / 2**20 + 0.6
    path = write_report(run, max_mib=limit)
    data = viewer_data(path.read_text(encoding="utf-8"))
    shown = [case["name"] for case in data["cases"] if case["data"]]
    # what the page has beside the volumes: a few hundred rows, curves and previews
    assert path.stat().st_size < limit * 2**20 + 700_000
    assert 0 < len(shown) < 300 and shown == [f"case_{number:03d}" for number in range(1, len(shown) + 1)]
    assert len(data["cases"]) == 300 and "a larger --max_mib" in data["cases"][-1]["reason"]
    assert len(data["cases"][0]["data"]["images"]) == 4
    assert len({known["colour"] for known in data["classes"]}) == len(data["classes"]) == 13


def test_runs_are_compared_case_by_case_or_not_at_all(whole_run: Callable[..., Path], tmp_path: Path) -> None:
    better, worse = (whole_run(name, dice=dice, cases=12) for name, dice in (("pretrained", 0.7), ("scratch", 0.6)))
    page = write_report([better, worse]).read_text(encoding="utf-8")
    expected = (
        "differs from scratch by +10.0 Dice points on the 12 case(s) that they share (95 % interval over the cases"
    )
    assert f"pretrained {expected} +10.0 to +10.0). One run each" in page
    assert '<th aria-sort="none">Dice less scratch</th>' in page and page.count("<td>+0.100</td>") == 12
    # another class for the same voxels, other sizes, another group, or other cases: no comparison
    for number, change in enumerate(
        (("organ", "bone"), (",2.0,", ",2.0,1"), ("validation", "unseen"), ("case_", "case"))
    ):
        other = whole_run(f"other_{number}", cases=12)
        table = other / "evaluate" / "evaluation_cases.csv"
        table.write_text(table.read_text().replace(*change))
        page = write_report([better, other]).read_text(encoding="utf-8")
        assert f"pretrained and other_{number} are not compared" in page and "<td>+0." not in page
    with pytest.raises(ValueError, match="each run must have a folder of its own"):
        write_report([better, better])
    # two folders of one name are told apart by more of their paths
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (better if name == "a" else worse).rename(tmp_path / name / "run")
    page = write_report([tmp_path / "a" / "run", tmp_path / "b" / "run"]).read_text(encoding="utf-8")
    assert "a/run differs from b/run" in page


def test_a_run_without_evaluation_or_cut_short_says_so(whole_run: Callable[..., Path], tmp_path: Path) -> None:
    run = whole_run()
    (run / "evaluate").rename(tmp_path / "evaluate")
    page = write_report(run).read_text(encoding="utf-8")
    assert (
        "There is no evaluation. Run configs/evaluate.json" in page
        and 'id="viewer-data"' not in page
        and len(page) < 2**20
    )
    started = tmp_path / "started"
    record = RunRecord(started / "pretrain", "pretrain")
    record.__enter__()  # and never left, as when the process is killed
    page = write_report(started).read_text(encoding="utf-8")
    assert "Pre-training has not finished an epoch." in page and "running, or killed" in page
    # an evaluation that was cut short has cases and no summary
    (tmp_path / "evaluate" / "evaluation_summary.csv").unlink()
    page = write_report(tmp_path / "evaluate").read_text(encoding="utf-8")
    assert "the evaluation has not ended" in page


def test_runs_with_other_settings_and_newer_weights_say_so(whole_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [whole_run(name) for name in ("pretrained", "scratch")]
    for run, epochs in zip(runs, (30, 8), strict=True):
        weights = tmp_path / f"models_{epochs}" / "model.pt"
        with RunRecord(run / "train", "train", weights.parent):
            pass
        recipe = {"epochs": epochs, "seed": 0, "training_volumes": ["a"] * epochs, "best": {"epoch": epochs}}
        save_weights(weights, torch.nn.Linear(1, 1), recipe, bare=True)
        path = run / "evaluate" / "evaluation_files.json"
        known = json.loads(path.read_text()) | {"weights": {"file": str(weights), "state": file_state(weights)}}
        path.write_text(json.dumps(known))
    page = write_report(runs).read_text(encoding="utf-8")
    assert "pretrained and scratch were trained with different settings: epochs 30 and 8." in page
    assert "were replaced" not in page
    os.utime(tmp_path / "models_8" / "model.pt", (1, 1))
    page = write_report(runs).read_text(encoding="utf-8")
    assert "scratch: The weights were replaced after this evaluation" in page
    assert "pretrained: The weights were replaced" not in page
    shutil.rmtree(tmp_path / "models_8")
    assert "were replaced" not in write_report(runs).read_text(encoding="utf-8")


def test_a_case_whose_label_was_replaced_is_not_drawn(whole_run: Callable[..., Path]) -> None:
    run = whole_run()
    path = run / "evaluate" / "evaluation_files.json"
    known = json.loads(path.read_text())
    for case in known["cases"].values():
        case["label_state"] = file_state(case["label"])
    path.write_text(json.dumps(known))
    assert all(case["data"] for case in viewer_data(write_report(run).read_text(encoding="utf-8"))["cases"])
    os.utime(known["cases"]["case_002"]["label"], (1, 1))
    cases = viewer_data(write_report(run).read_text(encoding="utf-8"))["cases"]
    assert [bool(case["data"]) for case in cases] == [True, False, True]
    assert "its label has been replaced since the evaluation" in cases[1]["reason"]


def test_a_case_whose_files_are_gone_or_wrong_keeps_its_figures(
    whole_run: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    run = whole_run()
    known = json.loads((run / "evaluate" / "evaluation_files.json").read_text())["cases"]
    Path(known["case_001"]["image"][0]).unlink()
    nib.save(
        nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), run / "evaluate" / "masks" / "case_002_seg.nii.gz"
    )
    cases = viewer_data(write_report(run).read_text(encoding="utf-8"))["cases"]
    assert [bool(case["data"]) for case in cases] == [False, False, True]
    assert "is missing" in cases[0]["reason"] and "report printed why" in cases[1]["reason"]
    assert cases[0]["classes"][0]["dice"] == 0.501
    assert "shape" in caplog.text and str(run) in caplog.text and str(run) not in json.dumps(cases)
    (run / "evaluate" / "evaluation_files.json").unlink()
    cases = viewer_data(write_report(run).read_text(encoding="utf-8"))["cases"]
    assert {case["reason"] for case in cases} == {"the run did not record its image"}


def test_unusual_and_left_out_volumes_are_named(whole_run: Callable[..., Path]) -> None:
    run = whole_run()
    (run / "one.nii.gz").touch()
    doubts = {name: json.dumps([[str(run / f"{name}.nii.gz")], "", []]) for name in ("one", "gone")}
    entries = {key: [[], ["digest"], [f"{name} is odd"]] for name, key in doubts.items()}
    (run / "pretrain" / "volumes.json").write_text(json.dumps(entries))
    (run / "pretrain" / "left_out.json").write_text(json.dumps({"left_out": ["cannot read two.nii.gz"]}))
    page = write_report(run).read_text(encoding="utf-8")
    assert (
        "<li>one.nii.gz: one is odd</li>" in page
        and "gone is odd" not in page
        and "<li>cannot read two.nii.gz</li>" in page
    )


def test_niivue_is_the_published_file_and_its_licences_are_kept() -> None:
    about = STATIC.joinpath("niivue.txt").read_text(encoding="utf-8")
    script = gzip.decompress(STATIC.joinpath("niivue.umd.js.gz").read_bytes())
    digest = re.search(r"sha256 ([0-9a-f]{64})", about)
    assert digest and hashlib.sha256(script).hexdigest() == digest[1]
    assert b"</script" not in script.lower()
    for needed in ("BSD 2-Clause License", "Copyright (c) 2021, Niivue", "MIT License", "ISC License"):
        assert needed in about


def test_an_exported_bundle_says_that_it_has_no_page(
    whole_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its export copies Python files alone."""
    monkeypatch.setattr("hybridmim_components.report.page.files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="an exported bundle leaves the report page out"):
        write_report(whole_run())


HEADER = "case,class,dice,hd95_mm,label_voxels,pred_voxels,flag,figures"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("train/run.json", '{"step": "train", "starts": 3}'),
        (
            "train/run.json",
            '{"step": "train", "starts": [], "command": "", "weights": null, "versions": {}, "machine": []}',
        ),
        ("evaluate/evaluation_cases.csv", "case,class,dice\na,b,0.5\n"),
        ("evaluate/evaluation_cases.csv", f"{HEADER}\na,b,,1,1,1,,x\n"),
        ("evaluate/evaluation_cases.csv", f"{HEADER}\na,b,0.5\n"),
        ("evaluate/evaluation_files.json", '{"labels": {"x": "y"}, "hounsfield": true, "cases": {}}'),
        ("evaluate/evaluation_files.json", '{"cases": {}}'),
        ("pretrain/volumes.json", '{"[[]]": 3}'),
    ],
)
def test_a_damaged_file_is_named(whole_run: Callable[..., Path], file: str, content: str) -> None:
    run = whole_run()
    (run / file).write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(run / file))):
        write_report(run)


def test_odd_names_and_files_do_not_end_the_page(whole_run: Callable[..., Path]) -> None:
    run = whole_run("_cost $^$ <b>")
    (run / "pretrain" / "previews" / "epoch_x.png").touch()
    (run / "models").mkdir()
    (run / "models" / "model.pt").write_bytes(b"damaged")
    with RunRecord(run / "train", "train", run / "models"):
        pass
    table = run / "train" / "validation.csv"
    table.write_text("epoch,iteration,val_mean_dice\n1,1,nan\n2,1,0.7\n")
    page = write_report(run).read_text(encoding="utf-8")
    assert "<b>" not in page.partition("<script")[0] and page.count("_cost $^$ &lt;b&gt;</text>") == 2
    assert re.search(r"<td>0\.7000</td><td>2</td>", page)


def test_previews_take_a_part_of_the_page_only(whole_run: Callable[..., Path]) -> None:
    run = whole_run()
    for path in (run / "pretrain" / "previews").glob("*.png"):
        path.write_bytes(b"x" * 200_000)
    epochs = re.findall(r'data-epoch="(\d+)"', write_report(run, max_mib=5).read_text(encoding="utf-8"))
    assert len(epochs) == 3 and epochs[0] == "1" and epochs[-1] == "30"


def test_once_a_case_does_not_fit_no_better_one_takes_its_place(whole_run: Callable[..., Path]) -> None:
    run = whole_run(cases=3)
    known = json.loads((run / "evaluate" / "evaluation_files.json").read_text())["cases"]["case_002"]
    noise = np.random.default_rng(0).normal(size=(64, 64, 64)).astype(np.float32)
    label = (noise > 2).astype(np.uint8)
    mask = run / "evaluate" / "masks" / "case_002_seg.nii.gz"
    for path, values in ((known["image"][0], noise), (known["label"], label), (mask, label)):
        nib.save(nib.Nifti1Image(values, nib.load(path).affine), path)
    used = len(gzip.decompress(STATIC.joinpath("niivue.umd.js.gz").read_bytes()))
    cases = viewer_data(write_report(run, max_mib=used / 2**20 + 0.2).read_text(encoding="utf-8"))["cases"]
    assert [bool(case["data"]) for case in cases] == [True, False, False]


def test_labels_without_a_name_have_a_colour_and_four_axes_are_channels(whole_run: Callable[..., Path]) -> None:
    run = whole_run(cases=1, classes=3)
    path = run / "evaluate" / "evaluation_files.json"
    known = json.loads(path.read_text())
    del known["labels"]["3"]
    image = nib.load(known["cases"]["case_001"]["image"][0])
    four = np.stack([image.get_fdata(), 2 * image.get_fdata()], -1).astype(np.float32)
    nib.save(nib.Nifti1Image(four, image.affine), known["cases"]["case_001"]["image"][0])
    path.write_text(json.dumps(known))
    data = viewer_data(write_report(run).read_text(encoding="utf-8"))
    assert [found["name"] for found in data["classes"]] == ["organ 1", "organ 2", "label 3"]
    images, windows = (data["cases"][0]["data"][name] for name in ("images", "windows"))
    assert len(images) == len(windows) == 2
    assert windows[1]["1 to 99 %"][1] == pytest.approx(2 * windows[0]["1 to 99 %"][1])
