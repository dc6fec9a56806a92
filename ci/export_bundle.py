# SPDX-License-Identifier: Apache-2.0

r"""Turn a bundle and its weights into a self-contained folder and zip, as the MONAI Model Zoo takes them.

The script copies the package into the folder as ``scripts``. The exported bundle then needs no installation of
hybridmim_components and runs from any working directory. Several exported bundles, or several versions of one, can run
in the same process: ``initialize`` makes Python import the bundle's own ``scripts``.

    python ci/export_bundle.py bundles/hybridmim_msd_spleen_unet_segmentation --weights models/model.pt \\
        --trained_on "MSD Spleen, fold 0" --output exported

``--frugal_inference`` merges the overlay of that name into inference.json, for servers that read only inference.json,
such as MONAI Label. MONAI Deploy cannot run the result, since it knows only MONAI's own components.

The weights that the repository holds need no ``--trained_on``, since the bundle describes them and has their figures.
If other weights are exported, the script removes the description and the figures. If weights are too large for a
repository, ``--url`` leaves them out and writes large_files.yml. The same input gives the same bytes. The script needs
isort and black (requirements-test.lock).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from render_bundles import SOURCE, read_modality, read_performance
from vendoring import PACKAGE, script_of, vendored

ROOT = Path(__file__).resolve().parents[1]
PHANTOMS = "phantoms"
_WARNING = "The weights were trained on synthetic phantoms: to try the bundle, not for patients."


def export_bundle(
    bundle: Path,
    weights: Path,
    output: Path,
    trained_on: str | None = None,
    url: str | None = None,
    package: Path = ROOT / PACKAGE,
    frugal_inference: bool = False,
) -> Path:
    """Write the exported folder and its zip.

    Args:
        bundle: folder of a bundle.
        weights: bare state dict of its network; the recipe beside it is copied too.
        output: folder that the exported bundle and ``<name>_v<version>.zip`` are written to.
        trained_on: what the weights were trained on, for metadata and README; ``phantoms`` marks them as not for
            patients, also in the bundle's name. None: take the text from the bundle, see ``performance`` in
            ci/render_bundles.py.
        url: where the weights can be downloaded; they are then left out, and large_files.yml names them.
        package: the package that is copied as ``scripts``.
        frugal_inference: make frugal_inference.json a part of inference.json.

    Returns:
        The exported folder.

    Raises:
        FileNotFoundError: when bundle or weights do not exist.
        ValueError: when the weights do not fit the bundle's network, or it is not known what they were trained on.
    """
    if not (bundle / "configs" / "metadata.json").is_file():
        raise FileNotFoundError(f"bundle must be a folder with configs/metadata.json, got {bundle}")
    if not weights.is_file():
        raise FileNotFoundError(
            f"no weights at {weights}: run configs/train.json of the bundle first, or set --weights"
        )
    _require_fitting(bundle, weights)
    texts = _Texts(bundle, weights, trained_on)
    name = bundle.name.replace("hybridmim_", "hybridmim_phantom_", 1) if texts.on_phantoms else bundle.name
    folder = output / name
    if any(_within(one, other) for one, other in ((folder, bundle), (bundle, folder), (package, folder))):
        raise ValueError(f"--output must be a folder away from the bundle, got {output} for {bundle}")
    if _within(weights, folder):
        raise ValueError(f"--weights must lie outside {folder}, which is written anew, got {weights}")
    if (folder / "runs").exists():
        raise ValueError(f"{folder} holds runs, which an export would delete: move it, or set another --output")
    if folder.exists():
        shutil.rmtree(folder)
    for source in _visible(bundle):
        target = folder / source.relative_to(bundle)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_exported(source, texts, frugal_inference))
    for source in (path for path in _visible(package) if path.suffix == ".py"):
        target = folder / "scripts" / source.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(script_of(source), encoding="utf-8")
    _place_weights(weights, folder, url)
    version = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
    _zip(folder, output / f"{folder.name}_v{version}.zip")
    return folder


class _Texts:
    """Statements about the weights in a bundle's texts, and those that replace them in the exported bundle.

    Args:
        bundle: folder of the bundle.
        weights: the weights that are exported.
        trained_on: what they were trained on; None: keep the bundle's statement about its own weights.

    Raises:
        ValueError: when ``trained_on`` is None and the bundle does not describe these weights.
    """

    def __init__(self, bundle: Path, weights: Path, trained_on: str | None) -> None:
        nothing = read_modality(SOURCE, "any")
        own = nothing | read_performance(SOURCE, bundle.name[len("hybridmim_") : -len("_segmentation")])
        same = own.get("weights_sha256") == hashlib.sha256(weights.read_bytes()).hexdigest()
        if trained_on is None and not same:
            raise ValueError(
                f"trained_on must say what the weights were trained on, the bundle does not describe {weights}"
            )
        self.on_phantoms = trained_on == PHANTOMS
        self.old_statement, self.statement = own["weights_statement"], own["weights_statement"]
        if trained_on is not None:
            self.statement = _WARNING if self.on_phantoms else f"The weights were trained on {trained_on}."
        self.measured = same
        self.old_performance, self.performance = (_lines(values["performance"]) for values in (own, nothing))

    def described(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Return the metadata of the exported bundle."""
        description = _replaced(metadata["description"], self.old_statement, self.statement)
        marked = " (weights from phantoms, not for patients)" if self.on_phantoms else ""
        metrics = metadata["eval_metrics"] if self.measured else {}
        return {**metadata, "name": metadata["name"] + marked, "description": description, "eval_metrics": metrics}

    def readme(self, text: str, frugal_inference: bool) -> str:
        """Return the README of the exported bundle."""
        title, _, rest = text.partition("\n")
        rest = _replaced(
            rest,
            "The package `hybridmim_components` must be installed for the first three commands; inference uses MONAI's "
            "own components alone.",
            "The bundle brings its own code, in `scripts`; inference uses "
            + (
                "it too: `frugal_inference.json` is a part of `inference.json`, which MONAI Deploy cannot run."
                if frugal_inference
                else "MONAI's own components alone."
            ),
        )
        rest = _replaced(rest, f"{self.old_statement} ", "")
        rest = _replaced(rest, "python -m hybridmim_components", "PYTHONPATH=$BUNDLE python -m scripts")
        if not self.measured:
            rest = _replaced(rest, self.old_performance, self.performance)
        return f"{title}\n\n**{self.statement}**\n{rest}"


def _lines(text: str | list[str]) -> str:
    return "\n".join(text) if isinstance(text, list) else text


def _exported(source: Path, texts: _Texts, frugal_inference: bool) -> bytes:
    text = source.read_text(encoding="utf-8")
    if source.parent.name == "configs" and source.suffix == ".json":
        config = json.loads(text)
        if source.name == "metadata.json":
            return _dump(texts.described(config))
        if source.name == "inference.json" and frugal_inference:
            config = _merged(source, source.with_name("frugal_inference.json"))
        return _dump(vendored(config, source.stem))
    if source.name == "README.md":
        return texts.readme(text, frugal_inference).encode()
    if source.name == "data_license.txt":
        return _replaced(text, texts.old_statement, texts.statement).encode()
    return text.encode()


def _merged(*files: Path) -> dict[str, Any]:
    from monai.bundle import ConfigParser

    return dict(ConfigParser.load_config_files([str(file) for file in files]))


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _replaced(text: str, old: str, new: str) -> str:
    """Replace a text, and raise an error if it is missing, so that a changed template is noticed."""
    if old not in text:
        raise ValueError(f"the bundle's texts must hold {old!r} to be replaced by {new!r}: render the bundle anew")
    return text.replace(old, new)


def _require_fitting(bundle: Path, weights: Path) -> None:
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    expected = {name: t.shape for name, t in parser.get_parsed_content("network_def").state_dict().items()}
    state = torch.load(weights, map_location="cpu", weights_only=True)
    found = {name: t.shape for name, t in state.items() if isinstance(t, torch.Tensor)}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"weights must be a state dict of {bundle.name}'s network, {weights} differs in {wrong[0]}")


def _place_weights(weights: Path, folder: Path, url: str | None) -> None:
    recipe = weights.with_suffix(".json")
    (folder / "models").mkdir(exist_ok=True)
    if recipe.is_file():
        content = json.loads(recipe.read_text(encoding="utf-8"))
        (folder / "models" / "model.json").write_bytes(_dump(content))
    if url is None:
        shutil.copyfile(weights, folder / "models" / "model.pt")
        return
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    entry = ["large_files:", '- path: "models/model.pt"', f'  url: "{url}"', f'  hash_val: "{digest}"']
    (folder / "large_files.yml").write_text("\n".join([*entry, '  hash_type: "sha256"']) + "\n", encoding="utf-8")


def _visible(folder: Path) -> Iterator[Path]:
    """Yield the files that belong to the source: no weights, no results of runs, nothing compiled or hidden."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if (
            path.is_file()
            and parts[0] not in ("models", "runs")
            and not any(p.startswith((".", "__pyc")) for p in parts)
        ):
            yield path


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(str(path.relative_to(folder.parent)), date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, path.read_bytes())


def _dump(config: dict[str, Any]) -> bytes:
    """Format JSON as the zoo's pre-commit hooks require, which refuse the short lists on one line in ``bundles/``."""
    return (json.dumps(config, indent=4) + "\n").encode()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    parser.add_argument("--weights", type=Path, help="state dict, default: models/model.pt of the bundle")
    parser.add_argument("--trained_on", help=f"what the weights were trained on; '{PHANTOMS}' marks them so")
    parser.add_argument("--output", type=Path, default=Path("exported"), help="folder to write to")
    parser.add_argument("--frugal_inference", action="store_true", help="as a part of inference.json, for MONAI Label")
    parser.add_argument("--url", help="where the weights can be downloaded, to leave them out")
    options = parser.parse_args()
    weights = options.weights or options.bundle / "models" / "model.pt"
    try:
        folder = export_bundle(
            options.bundle.resolve(),
            weights,
            options.output,
            options.trained_on,
            options.url,
            frugal_inference=options.frugal_inference,
        )
        print(folder)
        if '"SwinUNETR"' in (folder / "configs" / "inference.json").read_text(encoding="utf-8"):
            print(
                f"For the Model Zoo: add {folder.name} to exclude_verify_torchscript_list in its "
                "ci/bundle_custom_data.py, since torch cannot script SwinUNETR.",
                file=sys.stderr,
            )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
