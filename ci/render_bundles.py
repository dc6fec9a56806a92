# SPDX-License-Identifier: Apache-2.0

"""Render the bundles from their one source, ``ci/bundles``.

A bundle combines a data set with a backbone; a backbone's ``datasets`` limits it to these. ``common`` holds the
templates that all bundles share. ``modalities`` holds the values in which CT and MRI differ. Each data set and each
backbone has one file of values. The templates, and the values themselves, may contain placeholders:

- a string that is just ``{{name}}`` becomes the value of that name, whatever its type;
- ``{{name}}`` within other text becomes the value as text;
- ``"{{*name}}"`` in a list, or as a key of an object, is replaced by the items of that value.

A data set's ``of_backbone`` holds values for single backbones, which override those of all files before it. A file of
``performance`` holds the figures that benchmarks/trained_weights.py measured with the weights of a bundle.

    python ci/render_bundles.py                      # write all bundles to bundles/
    python ci/render_bundles.py --check              # write nothing, fail if a committed bundle differs
    python ci/render_bundles.py --dataset brats2020 --set 'modalities=["flair","t1ce"]' --output DIR
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "ci" / "bundles"
LOCK = ROOT / "requirements.lock"
PACKAGES = ("pytorch-ignite", "nibabel", "einops", "tensorboard", "matplotlib", "tqdm", "itk", "filelock")
PLACES = {"README.md": "docs", "data_license.txt": "docs", "LICENSE": "."}
_PLACEHOLDER = re.compile(r"\{\{(\*?)([a-z_0-9]+)\}\}")


class Values:
    """Named values of one bundle, in which later layers override earlier ones. It records which values were used."""

    def __init__(self, layers: Mapping[str, Mapping[str, Any]]) -> None:
        self.named = {name: value for layer in layers.values() for name, value in layer.items()}
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        """Return the rendered value of a name.

        Raises:
            KeyError: when no layer has it.
        """
        if name not in self.named:
            raise KeyError(f"no value for {{{{{name}}}}}: known are {', '.join(sorted(self.named))}")
        self.used.add(name)
        return self.render(self.named[name])

    def render(self, template: Any) -> Any:
        """Replace every placeholder in a JSON value."""
        if isinstance(template, dict):
            return dict(self._entries(template))
        if isinstance(template, list):
            return list(self._items(template))
        if not isinstance(template, str):
            return template
        whole = _PLACEHOLDER.fullmatch(template)
        return self[whole[2]] if whole else _PLACEHOLDER.sub(lambda match: _as_text(self[match[2]]), template)

    def render_text(self, template: str) -> str:
        """Replace every placeholder in a text, and leave out a line that consists only of empty values."""
        lines = []
        for line in template.splitlines():
            text = _PLACEHOLDER.sub(lambda match: _as_text(self[match[2]]), line)
            if text or not line:
                lines.append(text)
        return "\n".join(lines) + "\n"

    def _entries(self, template: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in template.items():
            splice = _PLACEHOLDER.fullmatch(key)
            if splice:
                yield from self[splice[2]].items()
            else:
                yield key, self.render(value)

    def _items(self, template: list[Any]) -> Iterator[Any]:
        for item in template:
            splice = _PLACEHOLDER.fullmatch(item) if isinstance(item, str) else None
            if splice and splice[1]:
                yield from self[splice[2]]
            else:
                yield self.render(item)


def read_values(source: Path, dataset: str, backbone: str, changes: Mapping[str, Any] | None = None) -> Values:
    """Read the values of one bundle: kind of image, data set, backbone, changes, and values derived from these."""
    own = read_json(source / "datasets" / f"{dataset}.json")
    of_backbone = own.pop("of_backbone", {}).get(backbone, {})
    layers = {
        "modality": read_modality(source, own["modality"]),
        "dataset": own,
        "backbone": read_backbone(source, backbone),
        "dataset's own of the backbone": of_backbone,
        "performance": read_performance(source, f"{dataset}_{backbone}"),
        "changes": dict(changes or {}),
        "names": {"dataset": dataset, "backbone": backbone},
    }
    values = Values(layers)
    channels, labels = values["input_channels"], values["label_names"]
    if len(labels) == values.named.get("num_classes") and sorted(map(int, labels)) != list(range(len(labels))):
        raise ValueError(
            f"label_names of {dataset} must be 0 to {len(labels) - 1} without a gap, got {', '.join(labels)}"
        )
    lock = dict(line.split("==") for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line)
    values.named |= {
        "num_channels": len(channels),
        "modality_names": ", ".join(channels),
        "input_channel_def": {str(index): name for index, name in enumerate(channels)},
        "foreground_names": [name for value, name in labels.items() if value != "0"],
        "fold_values": "`standard`, " if values["fold"] == "standard" else "",
        "dataset_items": [f"- {note}" for note in values["dataset_notes"]],
        "reference_items": [f"- {text}" for text in [values["hybridmim_reference"], *values["references"]]],
        "license_lines": values["license"],
        "required_packages_version": {name: lock[name] for name in PACKAGES},
        **{f"{name}_version": lock[name] for name in ("monai", "torch", "numpy")},
    }
    values.used |= {"modality", "backbone"}
    for layer in layers.values():  # a value that --set replaces may name others: these count as used
        values.render({name: value for name, value in layer.items() if name in layers["changes"]})
    return values


def read_performance(source: Path, name: str) -> dict[str, Any]:
    """Read the figures of the weights that a bundle holds; empty if it holds none."""
    path = source / "performance" / f"{name}.json"
    return read_json(path) if path.is_file() else {}


def read_backbone(source: Path, name: str) -> dict[str, Any]:
    """Read the values of a backbone, without the data sets that it is limited to."""
    return {key: value for key, value in read_json(source / "backbones" / f"{name}.json").items() if key != "datasets"}


def read_modality(source: Path, name: str) -> dict[str, Any]:
    """Read the values of a kind of image; ``based_on`` names another kind that provides the values that are missing."""
    own = read_json(source / "modalities" / f"{name}.json")
    base = own.pop("based_on", None)
    return {**read_modality(source, base), **own} if base else own


def render_bundle(
    source: Path, dataset: str, backbone: str, changes: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Return the text of every file of a bundle, by its path within the bundle.

    Raises:
        ValueError: when a data set or a backbone has a value that nothing uses.
    """
    values = read_values(source, dataset, backbone, changes)
    files = {}
    for template in sorted((source / "common").iterdir()):
        place = f"{PLACES.get(template.name, 'configs')}/{template.name}".removeprefix("./")
        if template.suffix == ".json":
            files[place] = format_json(values.render(read_json(template))) + "\n"
        else:
            files[place] = values.render_text(template.read_text(encoding="utf-8"))
    own = {**read_json(source / "datasets" / f"{dataset}.json"), **read_backbone(source, backbone)}
    own |= own.pop("of_backbone", {}).get(backbone, {})
    unused = sorted((own.keys() | (changes or {}).keys()) - values.used)
    if unused:
        raise ValueError(f"no template uses {', '.join(unused)} of {dataset} or {backbone}")
    return files


def bundle_name(dataset: str, backbone: str) -> str:
    """Return the folder name of a bundle; MONAI Label and the Model Zoo read the task from its ending."""
    return f"hybridmim_{dataset}_{backbone}_segmentation"


def names(source: Path, kind: str) -> list[str]:
    """Return the names of the data sets or backbones that the source describes."""
    return sorted(path.stem for path in (source / kind).glob("*.json"))


def combinations(source: Path) -> list[tuple[str, str]]:
    """Return the data set and the backbone of every bundle."""
    datasets, found = names(source, "datasets"), []
    for backbone in names(source, "backbones"):
        limited = read_json(source / "backbones" / f"{backbone}.json").get("datasets", datasets)
        if unknown := sorted(set(limited) - set(datasets)):
            raise ValueError(f"datasets of {backbone}.json must be of {', '.join(datasets)}, got {', '.join(unknown)}")
        found += [(dataset, backbone) for dataset in limited]
    return sorted(found)


def read_json(path: Path) -> dict[str, Any]:
    """Read one file of the source; an error names the file."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def format_json(value: Any, indent: int = 0) -> str:
    """Format JSON with 4 spaces, and lists of short plain values on one line."""
    inner, end = "    " * (indent + 1), "    " * indent
    if isinstance(value, dict) and value:
        entries = [f"{inner}{json.dumps(k)}: {format_json(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(entries) + f"\n{end}}}"
    if isinstance(value, list) and not all(_is_short(item) for item in value):
        return "[\n" + ",\n".join(inner + format_json(item, indent + 1) for item in value) + f"\n{end}]"
    return json.dumps(value, ensure_ascii=False)


def _files(bundles: Path) -> list[Path]:
    """Return the files of bundles, without the results of runs."""
    found = (path for path in sorted(bundles.rglob("*")) if path.is_file())
    return [path for path in found if path.relative_to(bundles).parts[1] not in ("models", "runs")]


def _is_short(item: Any) -> bool:
    return not isinstance(item, (dict, list)) and not (isinstance(item, str) and (item[:1] == "$" or len(item) > 50))


def _as_text(value: Any) -> str:
    return "\n".join(value) if isinstance(value, list) else str(value)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the source")
    parser.add_argument("--output", type=Path, default=ROOT / "bundles", help="folder that the bundles are written to")
    parser.add_argument("--dataset", help="this data set alone")
    parser.add_argument("--backbone", help="this backbone alone")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="change a value of the source")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args(arguments)
    changes = {name: json.loads(text) for name, _, text in (change.partition("=") for change in options.set)}
    different, expected = [], set()
    for dataset, backbone in combinations(options.source):
        if options.dataset not in (None, dataset) or options.backbone not in (None, backbone):
            continue
        folder = options.output / bundle_name(dataset, backbone)
        for place, text in render_bundle(options.source, dataset, backbone, changes).items():
            target = folder / place
            expected.add(target)
            if options.check:
                same = target.is_file() and target.read_text(encoding="utf-8") == text
                different += [] if same else [str(target)]
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
    if not expected:
        parser.error(f"there is no bundle of {options.dataset or 'a data set'} and {options.backbone or 'a backbone'}")
    if options.check and not (options.dataset or options.backbone):
        different += [str(path) for path in _files(options.output) if path not in expected]
    if different:
        print(
            "not as rendered from the source, run python ci/render_bundles.py:", *different, sep="\n  ", file=sys.stderr
        )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
