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

"""The page holds what the run left, says what is missing, keeps to its size, and carries its licences."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from hybridmim_components.report import write_report
from hybridmim_components.report.case_volumes import read_case
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
    assert "Mean Dice 0.502 on 3 case(s): not trained on, but they chose the best epoch." in page
    # the best of the two validations, twelve of thirty previews, and the last one is shown
    assert re.search(r"<td>0\.3000</td><td>3</td>", page)
    epochs = re.findall(r'data-epoch="(\d+)"( hidden)?', page)
    assert len(epochs) == 12 and epochs[0] == ("1", " hidden") and epochs[-1] == ("30", "")
    assert page.count("<svg") == 4 and "#010203" not in page
    assert '<td class="text">stopped</td>' in page and "torch" in page
    assert "No volume was left out" in page


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
    assert coarse.truth_ml == whole.truth_ml > 0 and list(coarse.windows)[0] == "soft tissue"
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
    better, worse = whole_run("pretrained", dice=0.7), whole_run("scratch", dice=0.6)
    page = write_report([better, worse]).read_text(encoding="utf-8")
    expected = "+10.0 Dice points on 3 case(s) of both, 95 % interval +10.0 to +10.0. One run each cannot tell"
    assert f"pretrained less scratch: {expected}" in page
    assert '<th aria-sort="none">Dice less scratch</th>' in page and page.count("<td>+0.100</td>") == 3
    other = whole_run("other")
    table = other / "evaluate" / "evaluation_cases.csv"
    table.write_text(table.read_text().replace("case_", "patient_"))
    page = write_report([better, other]).read_text(encoding="utf-8")
    assert "pretrained and other have evaluated no case in common, so they are not compared." in page
    with pytest.raises(ValueError, match="each run must have a folder of its own"):
        write_report([better, better])
    # two folders of one name are told apart by more of their paths
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (better if name == "a" else worse).rename(tmp_path / name / "run")
    page = write_report([tmp_path / "a" / "run", tmp_path / "b" / "run"]).read_text(encoding="utf-8")
    assert "a/run less b/run" in page


def test_a_run_without_evaluation_or_cut_short_says_so(whole_run: Callable[..., Path], tmp_path: Path) -> None:
    run = whole_run()
    (run / "evaluate").rename(tmp_path / "evaluate")
    page = write_report(run).read_text(encoding="utf-8")
    assert "No evaluation: run configs/evaluate.json" in page and 'id="viewer-data"' not in page and len(page) < 2**20
    started = tmp_path / "started"
    record = RunRecord(started / "pretrain", "pretrain")
    record.__enter__()  # and never left, as when the process is killed
    page = write_report(started).read_text(encoding="utf-8")
    assert "Pre-training has not finished an epoch." in page and "running, or killed" in page
    # an evaluation that was cut short has cases and no summary
    (tmp_path / "evaluate" / "evaluation_summary.csv").unlink()
    page = write_report(tmp_path / "evaluate").read_text(encoding="utf-8")
    assert "the evaluation has not ended" in page


def test_a_case_whose_files_are_gone_or_wrong_keeps_its_figures(whole_run: Callable[..., Path]) -> None:
    run = whole_run()
    known = json.loads((run / "evaluate" / "evaluation_files.json").read_text())["cases"]
    Path(known["case_001"]["image"][0]).unlink()
    nib.save(
        nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), run / "evaluate" / "masks" / "case_002_seg.nii.gz"
    )
    cases = viewer_data(write_report(run).read_text(encoding="utf-8"))["cases"]
    assert [bool(case["data"]) for case in cases] == [False, False, True]
    assert (
        "no image" in cases[0]["reason"] and "shape" in cases[1]["reason"] and cases[0]["classes"][0]["dice"] == 0.501
    )
    (run / "evaluate" / "evaluation_files.json").unlink()
    cases = viewer_data(write_report(run).read_text(encoding="utf-8"))["cases"]
    assert {case["reason"] for case in cases} == {"the run did not record its image"}


def test_unusual_and_left_out_volumes_are_named(whole_run: Callable[..., Path]) -> None:
    run = whole_run()
    key = json.dumps([["/scans/one.nii.gz"], "", []])
    (run / "pretrain" / "volumes.json").write_text(json.dumps({key: [[[1, 2]], ["digest"], ["spacing is odd"]]}))
    (run / "pretrain" / "left_out.json").write_text(json.dumps({"left_out": ["cannot read two.nii.gz"]}))
    page = write_report(run).read_text(encoding="utf-8")
    assert "<li>one.nii.gz: spacing is odd</li>" in page and "<li>cannot read two.nii.gz</li>" in page


def test_niivue_is_the_published_file_and_its_licences_are_kept() -> None:
    about = STATIC.joinpath("niivue.txt").read_text(encoding="utf-8")
    script = gzip.decompress(STATIC.joinpath("niivue.umd.js.gz").read_bytes())
    digest = re.search(r"sha256 ([0-9a-f]{64})", about)
    assert digest and hashlib.sha256(script).hexdigest() == digest[1]
    assert b"</script" not in script.lower()
    for needed in ("BSD 2-Clause License", "Copyright (c) 2021, Niivue", "MIT License", "ISC License"):
        assert needed in about
