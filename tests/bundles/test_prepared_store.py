# SPDX-License-Identifier: Apache-2.0

"""Pre-training from a prepared store, as the bundles' configs run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

from hybridmim_components.store import StoreSettings, prepare_store
from hybridmim_components.weights import read_weights


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spleen", "brats"])
def test_a_bundle_pretrains_from_a_store(
    kind: str, request: pytest.FixtureRequest, phantoms: Callable, tmp_path: Path
) -> None:
    bundle = request.getfixturevalue(kind)
    data = phantoms(bundle.dataset)
    small = {**bundle.small("pretrain"), "epochs": 1, "cache": "store", "store": str(tmp_path / "store")}
    config = bundle.config("pretrain")
    own = {name: config[name] for name in ("intensity_range", "modalities") if name in config}
    images = data.dataset_dir / "imagesTr" if kind == "spleen" else data.dataset_dir
    folders = [images, data.unlabelled_dir]
    prepare_store(folders, tmp_path / "store", StoreSettings(small["spacing"], **own), num_workers=0)
    places = {"bundle_root": bundle.path, "dataset_dir": data.dataset_dir, "output_dir": tmp_path, "ckpt_dir": tmp_path}
    overrides = small | {name: str(path) for name, path in places.items()}
    workflow = ConfigWorkflow(bundle.config_files("pretrain"), workflow_type="train", logging_file=False, **overrides)
    workflow.initialize()
    workflow.run()
    # 6 cases less those held out, and 2 unlabelled volumes
    held_out = len(workflow.parser.get_parsed_content("lists")["held_out"])
    volumes = read_weights(tmp_path / "pretrained" / "model.pt")[1]["volumes"]
    assert held_out and len(volumes) == (8 - held_out) * (4 if kind == "brats" else 1)
