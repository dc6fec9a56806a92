# SPDX-License-Identifier: Apache-2.0

"""README and docs have the figures of the few-label study, and claim no more than these show."""

from __future__ import annotations

import json
from pathlib import Path

import few_labels
import numpy as np
import pytest
from few_labels_arms import read_arms
from few_labels_rates import best_rates
from few_labels_report import difference, read_scores

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "benchmarks/README.md")
RESULTS = ROOT / "benchmarks" / "results" / "few_labels_msd_hippocampus_unet"


@pytest.mark.skipif(not (RESULTS / "table.md").is_file(), reason="the study has no results yet")
def test_the_readme_shows_the_table_that_the_study_wrote() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(line in readme for line in (RESULTS / "table.md").read_text().splitlines())
    scored = {seed for seeds in read_scores(RESULTS / "cells.csv").values() for seed in seeds}
    assert scored.isdisjoint(few_labels.TUNING_SEEDS)


def test_the_readme_has_the_figures_of_the_trials() -> None:
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for trial in few_labels.read_rows(RESULTS / "tuning.csv"):
        rates = found.setdefault((trial["arm"], trial["labels"], trial["steps"]), {})
        rates.setdefault(trial["learning_rate"], []).append(100 * float(trial["dice"]))

    def best(arm: str, labels: str, steps: str) -> tuple[float, str]:
        rates = {r: values for r, values in found[arm, labels, steps].items() if len(values) >= 3 or labels == "0"}
        return max((float(np.mean(values)), rate) for rate, values in rates.items())

    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    room = [f"{best('scratch', labels, '400')[0]:.1f}" for labels in ("0", "2", "1")]
    assert "reaches {} with the labels of all 64 patients, {} with two, {} with one".format(*room) in text
    flips = np.mean(found["scratch_flips", "2", "400"]["0.003"])
    augmented = np.mean(found["scratch", "2", "400"]["0.003"])
    assert f"take scratch from {flips:.1f} to {augmented:.1f} with two labels" in text
    sentence = "HybridMIM reaches {} after 100 steps and scratch {}; after 400 steps they reach {} and {}."
    for labels in ("1", "2"):
        pairs = [best(arm, labels, steps) for steps in ("100", "400") for arm in ("hybridmim", "scratch")]
        assert sentence.format(*(f"{dice:.1f} (at {rate})" for dice, rate in pairs)) in text
    lead = np.mean(found["hybridmim", "1", "100"]["0.006"]) - np.mean(found["scratch", "1", "100"]["0.006"])
    assert f"At 0.006, HybridMIM leads by {lead:.1f} after 100 steps" in text
    scores = read_scores(RESULTS / "cells.csv")
    seeds = {
        labels: {seed for (_, n, _), s in scores.items() if n == labels for seed in s} for labels in (0, 1, 2, 4, 8)
    }
    assert seeds == {1: set(range(10))} | dict.fromkeys((0, 2, 4, 8), {0, 1, 7, 8, 9})
    assert all(s.keys() == seeds[n] for (arm, n, _), s in scores.items() if arm != "masked_modelling")
    assert "have the seeds 0 to 9, the others the seeds 0, 1, 7, 8 and 9: their" in text
    assert f"HybridMIM fails in seed 1 (Dice {scores['hybridmim', 2, 100][1].mean():.0f})" in text


def test_the_readme_tells_how_many_pretrainings_learnt_nothing_at_the_region_level() -> None:
    rows = [row for row in few_labels.read_rows(RESULTS / "pretraining.csv") if row["arm"] == "hybridmim"]
    guessing = [row for row in rows if float(row["location_accuracy"]) < 0.55 and float(row["number_accuracy"]) < 0.3]
    assert (len(rows), len(guessing)) == (13, 3)
    scored = {str(seed) for seeds in read_scores(RESULTS / "cells.csv").values() for seed in seeds}
    assert len(scored) == 10 and {row["seed"] for row in guessing} <= scored <= {row["seed"] for row in rows}
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert "of the ten pre-trainings of ten minutes for the table below, three ended with both heads at" in text


def test_the_pages_have_the_figures_from_inside_nnunet() -> None:
    folder = RESULTS.with_name("few_labels_msd_hippocampus_nnunet")
    page = (ROOT / "docs" / "how_to" / "nnunet.md").read_text(encoding="utf-8")
    assert all(line in page for line in (folder / "table.md").read_text().splitlines())
    scores = read_scores(folder / "cells.csv")
    text, other = (
        " ".join((ROOT / name).read_text(encoding="utf-8").split())
        for name in ("docs/how_to/nnunet.md", "benchmarks/README.md")
    )
    first = read_scores(folder / "cells_at_first_rates.csv")
    pairs = [(scores["hybridmim", n, 250], scores["scratch", n, 250]) for n in (2, 4)]
    pairs += [(first["hybridmim", 4, 250], first["scratch", 4, 250])]
    pairs += [(scores["hybridmim", 4, 250], first["scratch", 4, 250])]
    two, four, at_first_rates, at_one_rate = (difference(*pair) for pair in pairs)
    assert two and four and at_first_rates and at_one_rate and {g.seeds for g in (two, four, at_first_rates)} == {10}
    assert two.low < 0 < two.high and four.low < 0 < four.high and "No gain is shown: both intervals contain 0." in text
    assert f"show no gain: {two} and {four}." in other
    for gain in (at_first_rates, at_one_rate):
        shown = f"{gain.mean:.1f} ({gain.low:+.1f} to {gain.high:+.1f}"
        assert f"leads by {shown}" in other and shown in text.replace(" points", "")
    trials = [row for row in few_labels.read_rows(folder / "tuning.csv") if float(row["learning_rate"]) == 0.0015]
    low = [row["arm"] for row in trials if float(row["dice"]) < 0.65]
    assert (low.count("scratch"), low.count("hybridmim")) == (2, 1) and "two seeds of scratch and one of Hyb" in other
    failed = sorted(v.mean() for v in scores["scratch", 4, 250].values() if v.mean() < 65)
    shown = "(Dice {:.0f}, {:.0f} and {:.0f})".format(*failed)
    assert f"three of ten seeds {shown}" in text and f"three of ten seeds {shown}" in other
    assert min(v.mean() for v in first["scratch", 4, 250].values()) > 70
    best = [best_rates(folder / "tuning.csv", 4, 250)[arm] for arm in ("scratch", "hybridmim")]
    assert best == [(0.003, ""), (0.006, "")] and "(scratch 0.003, HybridMIM 0.006)" in text
    learnt = few_labels.read_rows(folder / "pretraining.csv")
    numbers, locations = ([float(row[f"{name}_accuracy"]) for row in learnt] for name in ("number", "location"))
    assert len(learnt) == 13 and set(locations) == {1.0}
    right = f"{min(numbers):.2f} to {max(numbers):.2f} right"
    for name in ("README.md", "benchmarks/README.md"):
        assert right in (ROOT / name).read_text(encoding="utf-8")
    unet = [
        [
            float(row[f"{name}_accuracy"])
            for row in few_labels.read_rows(RESULTS / "pretraining.csv")
            if row["arm"] == "hybridmim"
        ]
        for name in ("number", "location")
    ]
    shown = [
        f"{min(v for v in values if v > guess):.2f} to {max(values):.2f}"
        for values, guess in zip(unet, (0.3, 0.55), strict=True)
    ]
    assert "reaches {}\nand {} in ten minutes".format(*shown) in (ROOT / "benchmarks" / "README.md").read_text(
        encoding="utf-8"
    )


def test_the_readme_claims_a_gain_only_where_the_interval_is_above_zero() -> None:
    scores = read_scores(RESULTS / "cells.csv")
    gains = [
        gain.low > 0
        for labels, steps in {(labels, steps) for _, labels, steps in scores}
        if (gain := difference(scores["hybridmim", labels, steps], scores["scratch", labels, steps]))
    ]
    assert gains and not any(gains)
    assert "**Does it help after fine-tuning? On these patients, not yet.**" in (ROOT / "README.md").read_text(
        encoding="utf-8"
    )


def test_the_pages_have_the_figures_of_the_swinunetr() -> None:
    folder = RESULTS.with_name("few_labels_msd_hippocampus_swinunetr")
    scores = read_scores(folder / "cells.csv")
    gains = [difference(scores["hybridmim", labels, 200], scores["scratch", labels, 200]) for labels in (1, 4)]
    one, four = gains
    assert one and four and one.low < 0 < one.high and four.low < 0 < four.high
    shown = f"{one} with one label and {one.seeds} seeds, {four} with four labels and {four.seeds} seeds"
    texts = {name: " ".join((ROOT / name).read_text(encoding="utf-8").split()) for name in PAGES}
    assert all(shown in text for text in texts.values())
    trials = few_labels.read_rows(folder / "tuning.csv")
    best = best_rates(folder / "tuning.csv", 1, 200)

    def mean(arm: str) -> float:
        rows = [row for row in trials if row["arm"] == arm and float(row["learning_rate"]) == best[arm][0]]
        return float(np.mean([100 * float(row["dice"]) for row in rows]))

    text = texts["benchmarks/README.md"]
    shown = "scratch reaches {:.1f} (at {}) and HybridMIM {:.1f} (at {}, the largest rate".format(
        mean("scratch"), best["scratch"][0], mean("hybridmim"), best["hybridmim"][0]
    )
    assert shown in text and best["hybridmim"][1] == "largest"
    fails = [scores[arm, 1, 200][1].mean() for arm in ("hybridmim", "scratch")]
    assert "both arms fail in seed 1 (Dice {:.0f} and {:.0f})".format(*fails) in text
    learnt = few_labels.read_rows(folder / "pretraining.csv")
    spans = {
        name: "{:.2f} to {:.2f}".format(*sorted(float(row[name]) for row in learnt)[:: len(learnt) - 1])
        for name in ("location_accuracy", "masked_error_share")
    }
    assert "accuracy of {location_accuracy} and the masked error {masked_error_share} of".format(**spans) in text


def test_the_pages_have_the_figures_of_plain_masked_modelling() -> None:
    scores = read_scores(RESULTS / "cells.csv")
    seeds = sorted(scores["masked_modelling", 1, 400])
    assert seeds == sorted(scores["masked_modelling", 2, 400]) and set(seeds) <= {0, 1, 7, 8, 9}
    *others, last = map(str, seeds)
    texts = {name: " ".join((ROOT / name).read_text(encoding="utf-8").split()) for name in PAGES}
    assert all(f"seeds {', '.join(others)} and {last}" in text for text in texts.values())
    ours = [difference(scores["hybridmim", n, 400], scores["masked_modelling", n, 400]) for n in (1, 2)]
    assert all(gain and gain.low < 0 < gain.high for gain in ours)
    shown = f"HybridMIM less plain masked modelling is {ours[0]} with one label and {ours[1]} with two"
    assert shown in texts["benchmarks/README.md"]
    for labels in ("1", "2"):
        best = [
            best_rates(RESULTS / "tuning.csv", int(labels), 400)[arm][0]
            for arm in ("scratch", "hybridmim", "masked_modelling")
        ]
        means = [
            np.mean(
                [
                    100 * float(row["dice"])
                    for row in few_labels.read_rows(RESULTS / "tuning.csv")
                    if (row["arm"], row["labels"], row["steps"], float(row["learning_rate"]))
                    == (arm, labels, "400", rate)
                ]
            )
            for arm, rate in zip(("scratch", "hybridmim", "masked_modelling"), best, strict=True)
        ]
        assert max(means) - min(means) < 0.5, "as benchmarks/README.md says"


def test_the_pages_have_the_figures_of_the_frozen_features() -> None:
    scores = read_scores(RESULTS / "probe.csv")
    new, masked, ours = (scores[arm, 1, 0] for arm in ("scratch", "masked_modelling", "hybridmim"))
    assert new.keys() == masked.keys() == ours.keys() == {0, 1, 7, 8, 9}
    means = [float(np.mean(list(seeds.values()))) for seeds in (ours, masked, new)]
    gain, beyond = difference(ours, new), difference(ours, masked)
    assert gain and beyond and gain.low > 0 > beyond.low, "as the pages say"
    readme, other = (" ".join((ROOT / name).read_text(encoding="utf-8").split()) for name in PAGES)
    assert f"{means[0]:.1f} with HybridMIM and {means[2]:.1f} with new weights, {gain} on 60 test patients" in readme
    assert (
        f"masked modelling reaches {means[1]:.1f}, and HybridMIM is not shown to differ from it: {beyond} (" in readme
    )
    assert (
        "{:.1f} on those of HybridMIM, {:.1f} on those of plain masked modelling and {:.1f} on".format(*means) in other
    )
    assert f"less new weights is {gain}, less plain masked modelling {beyond}." in other
    trained = read_scores(RESULTS / "cells.csv")["scratch", 1, 100]
    scratch = np.mean([trained[seed] for seed in ours])
    assert f"reach {scratch:.1f}, the frozen features of HybridMIM {means[0]:.1f}." in readme
    assert f"Scratch less those features is {difference(trained, ours)}." in readme
    assert f"from scratch reaches {scratch:.1f} in 100 steps with the same seeds" in other


def test_the_pages_have_the_figures_of_large_patches() -> None:
    learnt = {
        arm: [row for row in few_labels.read_rows(RESULTS / "pretraining.csv") if row["arm"] == arm]
        for arm in ("large_patches", "high_ratio")
    }
    assert [float(row["number_accuracy"]) for row in learnt["large_patches"]] == [1, 1]
    assert [float(row["location_accuracy"]) for row in learnt["large_patches"]] == [1, 1]
    shown = "{number_accuracy:.2f} and {location_accuracy:.2f}."
    (row,) = learnt["high_ratio"]
    text = " ".join((ROOT / PAGES[1]).read_text(encoding="utf-8").split())
    assert (
        "(`high_ratio`, one seed), " + shown.format(**{k: float(row[k]) for k in row if k.endswith("accuracy")}) in text
    )
    means = [
        np.mean(
            [
                100 * float(row["dice"])
                for row in few_labels.read_rows(RESULTS / "tuning.csv")
                if (row["arm"], row["labels"], row["steps"], row["learning_rate"]) == (arm, "1", "400", rate)
                and row["seed"] in ("100", "101")
            ]
        )
        for arm in ("large_patches", "hybridmim", "scratch")
        for rate in ("0.01", "0.02")
    ]
    shown = (
        "large patches reach {:.1f} at 0.01 and {:.1f} at 0.02, "
        "HybridMIM with the same two seeds {:.1f} and {:.1f}, and scratch {:.1f} and {:.1f}."
    )
    assert shown.format(*means) in text


def test_no_arm_with_published_results_was_changed() -> None:
    for path in sorted(RESULTS.parent.glob("few_labels_*/study.json")):
        known = json.loads(path.read_text(encoding="utf-8"))["arms"]
        rows = [row["arm"] for file in path.parent.glob("*.csv") for row in few_labels.read_rows(file)]
        assert set(rows) <= known.keys(), path
        assert known == {name: json.loads(json.dumps(read_arms()[name].recipe)) for name in known}, path
