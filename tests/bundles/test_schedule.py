# SPDX-License-Identifier: Apache-2.0

"""How long the configs train: epochs of steps, whatever the data, and what another program sets on the trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from monai.bundle import ConfigParser

LABEL = "train#trainer#max_epochs"  # the one setting by which MONAI Label says how long to train


def parsed(bundle: Any, step: str, phantoms: Callable, **overrides: object) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle.config_files(step))
    places = {"dataset_dir": str(phantoms(bundle.dataset).dataset_dir), "bundle_root": str(bundle.path)}
    parser.update({**bundle.small(step), **places, "cache": "none", **overrides})
    return parser


def steps_of(parser: ConfigParser) -> tuple[int, int, int]:
    """Batches of an epoch, length of the learning rate's schedule in batches, and planned optimizer steps."""
    schedule = parser.get_parsed_content("lr_scheduler")
    planned = parser.get_parsed_content("recipe#planned_steps")
    return len(parser.get_parsed_content("train#dataloader")), schedule.t_total, planned


@pytest.mark.parametrize("step", ["pretrain", "train"])
def test_epochs_of_the_trainer_set_the_schedule(spleen, step: str, phantoms: Callable) -> None:
    assert steps_of(parsed(spleen, step, phantoms, steps_per_epoch=5)) == (5, 10, 10)
    parser = parsed(spleen, step, phantoms, steps_per_epoch=5, **{LABEL: 7})
    assert steps_of(parser) == (5, 35, 35) and parser.get_parsed_content("recipe#epochs") == 7


@pytest.mark.parametrize("step", ["pretrain", "train"])
def test_accumulated_gradients_cost_batches_and_no_steps(spleen, step: str, phantoms: Callable) -> None:
    parser = parsed(spleen, step, phantoms, steps_per_epoch=5, accumulation_steps=3)
    assert steps_of(parser) == (15, 30, 10)
    settings = {"steps_per_epoch": 500, "warmup_steps": 7}
    once, thrice = (parsed(spleen, step, phantoms, accumulation_steps=n, **settings) for n in (1, 3))
    assert [p.get_parsed_content("lr_scheduler").warmup_steps for p in (once, thrice)] == [7, 21]


def test_a_part_of_the_labels_trains_as_long_as_all(spleen, phantoms: Callable) -> None:
    found = {}
    for fraction in (1.0, 0.25):
        parser = parsed(spleen, "train", phantoms, label_fraction=fraction, steps_per_epoch=6)
        loader = parser.get_parsed_content("train#dataloader")
        found[len(parser.get_parsed_content("train#dataset"))] = (steps_of(parser), len(list(loader)))
    assert found == {4: ((6, 12, 12), 6), 1: ((6, 12, 12), 6)}
