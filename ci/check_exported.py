# SPDX-License-Identifier: Apache-2.0

"""Run the Model Zoo's own checks on exported bundles, offline and on the CPU, with phantoms in place of data.

    python ci/check_exported.py exported/hybridmim_*_segmentation

Each bundle is checked in a process of its own, which runs outside the bundle's folder:

- the files and the metadata that the zoo requires
- isort, black, flake8 and the pre-commit hooks, with the zoo's settings (ci/model_zoo)
- the properties and ``verify_net_in_out`` of ``monai.bundle``
- train, evaluate (laid over train) and inference as the zoo's unit tests run them, a few steps each
- the export to TorchScript, and loading the exported file

The script prints a table and ends with status 1 if a check fails. The package need not be installed, since only the
bundle's own code is used. Two of the zoo's checks are not run: pytype, and the check of metadata.json against a JSON
schema, which the zoo downloads.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKS = ("files", "style", "metadata", "network", "train", "evaluate", "inference", "torchscript")
ZOO_SETTINGS = Path(__file__).resolve().parent / "model_zoo"
TOOLS = (("isort", "--check"), ("black", "--check", "--skip-magic-trailing-comma"), ("flake8",))
HOOKS = {  # of the zoo's .pre-commit-config.yaml, with the files that each one checks
    "pretty_format_json --no-sort-keys --indent=4": "*.json",
    "check_docstring_first": "*.py",
    "end_of_file_fixer": "*.*",
    "trailing_whitespace_fixer": "*.*",
    "mixed_line_ending": "*.*",
    "detect_private_key": "*.*",
}
# from https://github.com/Project-MONAI/model-zoo/blob/dev/docs/readme_template.md and the zoo's bundles
SECTIONS = ("Data", "Performance", "MONAI Bundle Commands", "References", "License")
FILES = ["LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf", "scripts/__init__.py"]
FILES += [f"configs/{name}.json" for name in ("metadata", "pretrain", "train", "evaluate", "inference")]
# https://project-monai.github.io/schema/meta_schema_20240725.json
METADATA = "version changelog monai_version pytorch_version numpy_version required_packages_version task description "
METADATA += "authors copyright schema name data_source data_type image_classes label_classes pred_classes eval_metrics "
METADATA += "intended_use references network_data_format"


def check_bundle(folder: str) -> dict[str, str]:
    """Run all checks on one exported bundle.

    Returns:
        By the name of the check: ``ok``, or what went wrong.
    """
    root = Path(folder).resolve()
    sys.path.insert(0, str(root))
    os.chdir("/")
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        zoo = _Zoo(root, Path(temporary))
        for name in CHECKS:
            check: Callable[[], None] = getattr(zoo, name)
            try:
                check()
                results[name] = "ok"
            except Exception as error:  # after any error, the other checks go on
                traceback.print_exc()
                results[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return results


_NOT_OF_THE_SOURCE = shutil.ignore_patterns("__pycache__", "*.pt", "*.ts")


class _Zoo:
    """Checks of a bundle; later ones need the files that earlier ones write."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root, self.work = root, work
        self.meta = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))

    def files(self) -> None:
        missing = [name for name in FILES if not (self.root / name).is_file()]
        weights = self.root / "models" / "model.pt"
        if not weights.is_file() and not (self.root / "large_files.yml").is_file():
            raise FileNotFoundError(
                f"no weights at {weights}, and no large_files.yml that says where they are: run ci/export_bundle.py "
                "with --weights or --url"
            )
        versioned = [p.name for p in self.root.rglob("*") if re.search(r"_v\d", p.name)]
        if missing or versioned:
            raise FileNotFoundError(f"a bundle lacks {missing}, or has versions in names {versioned}")

    def style(self) -> None:
        checkout = self.work / "checkout"
        shutil.copytree(ZOO_SETTINGS, checkout)
        bundle = shutil.copytree(self.root, checkout / "models" / self.root.name, ignore=_NOT_OF_THE_SOURCE)
        commands = [[*tool, "models"] for tool in TOOLS]
        for hook, pattern in HOOKS.items():
            name, *options = hook.split()
            paths = [str(p) for p in sorted(bundle.rglob(pattern)) if p.is_file()]
            commands.append([f"pre_commit_hooks.{name}", *options, *paths])
        failed = []
        for command in commands:
            done = subprocess.run([sys.executable, "-m", *command], cwd=checkout, capture_output=True, text=True)
            if done.returncode:
                failed.append(command[0])
                print(done.stdout, done.stderr, file=sys.stderr)
        readme = (self.root / "docs" / "README.md").read_text(encoding="utf-8")
        failed += [f"README section {name}" for name in SECTIONS if f"\n## {name}\n" not in readme]
        if failed:
            raise ValueError(f"the zoo's style is not met: {', '.join(failed)}")

    def metadata(self) -> None:
        missing = set(METADATA.split()) - self.meta.keys()
        if missing:
            raise ValueError(f"metadata lacks {sorted(missing)}")
        if self.meta["version"] not in self.meta["changelog"]:
            raise ValueError(f"the changelog lacks version {self.meta['version']}")
        for name, version in self.meta["required_packages_version"].items():
            if not re.fullmatch(r"\d+(\.\d+)*", version):
                raise ValueError(f"required_packages_version must be exact, got {name} {version}")

    def network(self) -> None:
        from monai.bundle.scripts import verify_net_in_out

        configs = self.root / "configs"
        verify_net_in_out("network_def", str(configs / "metadata.json"), str(configs / "inference.json"), device="cpu")

    def train(self) -> None:
        phantoms = importlib.import_module("scripts.phantoms")
        dataset = json.loads((self.root / "configs" / "train.json").read_text(encoding="utf-8"))["dataset"]
        brains = dataset == "brats2020"
        size, spacing = ((36, 44, 36), (4.4, 4.0, 4.2)) if brains else ((40, 40, 32), (7.0, 7.0, 8.0))
        self.data = phantoms.write_phantoms(dataset, self.work / "data", 6, 1, 1, size=size, spacing=spacing)
        steps: dict[str, Any] = {
            "epochs": 1,
            "steps_per_epoch": 2,
            "val_interval": 1,
            "batch_size": 2,
            "crops_per_volume": 1,
        }
        steps |= {"cache": "none"}
        self._run("train", ["train"], ckpt_dir=str(self.work / "models"), **steps)

    def evaluate(self) -> None:
        self._run("train", ["train", "evaluate"], ckpt_dir=str(self.work / "models"))
        if not any((self.work / "train_evaluate").glob("evaluation_summary.csv")):
            raise FileNotFoundError("evaluate wrote no summary")

    def inference(self) -> None:
        weights = self.root / "models" if (self.root / "models" / "model.pt").is_file() else self.work / "models"
        self._run("infer", ["inference"], ckpt_dir=str(weights), image_dir=str(self.data.image_dir))
        if not any((self.work / "inference").glob("*.nii.gz")):
            raise FileNotFoundError("inference wrote no mask")

    def torchscript(self) -> None:
        import torch
        from monai.bundle import ConfigParser, ckpt_export
        from monai.networks.utils import copy_model_state

        weights = next(p for p in (self.root / "models" / "model.pt", self.work / "models" / "model.pt") if p.is_file())
        parser = ConfigParser()
        parser.read_config(str(self.root / "configs" / "inference.json"))
        network, config = parser.get_parsed_content("network_def"), parser.get_parsed_content("network_def#_target_")
        image = self.meta["network_data_format"]["inputs"]["image"]
        shape = [1, image["num_channels"], *image["spatial_shape"]]
        # torch 2.13 cannot script SwinUNETR, only trace it at one size
        trace: dict[str, Any] = {"use_trace": True, "input_shape": shape} if config == "SwinUNETR" else {}
        target = self.work / "model.ts"
        ckpt_export(
            "network_def",
            filepath=str(target),
            ckpt_file=str(weights),
            meta_file=str(self.root / "configs" / "metadata.json"),
            config_file=[str(self.root / "configs" / "inference.json")],
            **trace,
        )
        copy_model_state(network, torch.load(weights, weights_only=True))
        crop = torch.rand(shape)
        with torch.no_grad():
            difference = (torch.jit.load(target)(crop) - network.eval()(crop)).abs().max()
        if float(difference) > 1e-4:
            raise ValueError(f"TorchScript must give PyTorch's logits within 1e-4, got {float(difference):g}")

    def _run(self, kind: str, names: list[str], **overrides: Any) -> None:
        """Call ``initialize``, ``check_properties``, ``run`` and ``finalize``, as the zoo's unit tests do."""
        from monai.bundle import ConfigWorkflow

        parser = importlib.import_module("monai.bundle").ConfigParser()
        parser.read_config(str(self.root / "configs" / "inference.json"))
        stride = 32 if parser.get_parsed_content("network_def#_target_") == "SwinUNETR" else 16
        small: dict[str, Any] = {
            "roi_size": [max(48, 2 * stride)] * 3,
            "spacing": [6.0] * 3,
            "num_workers": 0,
            "device": "cpu",
        }
        places = {"bundle_root": str(self.root), "output_dir": str(self.work / "_".join(names))}
        places["dataset_dir"] = str(self.data.dataset_dir)
        files = [str(self.root / "configs" / f"{name}.json") for name in names]
        workflow = ConfigWorkflow(files, workflow_type=kind, logging_file=False, **small, **places, **overrides)
        workflow.initialize()
        missing = workflow.check_properties()
        if missing:
            raise ValueError(f"properties are missing: {missing}")
        workflow.run()
        workflow.finalize()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("bundles", nargs="+", help="folders that ci/export_bundle.py wrote")
    bundles = parser.parse_args().bundles
    print("| bundle | " + " | ".join(CHECKS) + " |\n" + "|---" * (len(CHECKS) + 1) + "|")
    failed = False
    for bundle in bundles:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results = pool.apply(check_bundle, (bundle,))
        print(f"| {Path(bundle).resolve().name} | " + " | ".join(results[name] for name in CHECKS) + " |", flush=True)
        failed = failed or set(results.values()) != {"ok"}
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
