# SPDX-License-Identifier: Apache-2.0

"""Push and pull of exported bundles on the Hugging Face Hub by MONAI's own functions, with checks of each bundle."""

from __future__ import annotations

import importlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from monai.bundle import download
from monai.bundle.scripts import push_to_hf_hub

from hybridmim_components.weights import how_to_get_weights, read_weights

__all__ = ["pull", "push"]

logger = logging.getLogger(__name__)
#: Part of the name in the metadata of bundles that ci/export_bundle.py exported with weights trained on phantoms.
PHANTOM_MARK = "weights from phantoms"
_PARTS = ("LICENSE", "large_files.yml", "configs/*", "docs/*", "scripts/**/*.py", "models/model.*")


def push(bundle: str, repo: str, public: bool = False, tag: bool = False, allow_phantoms: bool = False) -> str:
    """Push an exported bundle to the Hugging Face Hub, private by default. Log in first: ``hf auth login``.

    Args:
        bundle: folder that ci/export_bundle.py wrote. Results of runs in it are not pushed.
        repo: repository, such as organisation/name; created if it does not exist.
        public: let everybody see the repository.
        tag: tag the push with the version in metadata.json.
        allow_phantoms: also push weights trained on phantoms, which cannot segment patients.

    Returns:
        Where the bundle can be seen.

    Raises:
        FileNotFoundError: when the folder is not an exported bundle.
        ValueError: when the bundle or the repository is not fit for the push; says why.
        OSError: when the hub cannot be reached or refuses.
    """
    hub, root = _hub(), Path(bundle).resolve()
    metadata = check_exported(root)
    if PHANTOM_MARK in metadata["name"] and not allow_phantoms:
        raise ValueError(
            f"{root} has weights trained on phantoms: whoever finds them would take them for a model of patients. "
            "Export weights trained on patients, or say --allow_phantoms"
        )
    version = str(metadata["version"])
    with _asking(repo):
        private, tags = _state(hub.HfApi(), repo)
    if private is not None and private == public:
        have, want = ("private", "without --public") if public else ("public", "with --public")
        raise ValueError(f"{repo} is {have} and pushing does not change that: push {want}, or change it on the hub")
    if tag and version in tags:
        raise ValueError(f"{repo} has a tag {version} already: raise the version in configs/metadata.json, or no --tag")
    # push a copy, since MONAI writes the model card into the folder that it pushes
    with TemporaryDirectory() as folder, _asking(repo):
        _copy(root, Path(folder) / root.name)
        where = push_to_hf_hub(
            repo,
            root.name,
            folder,
            private=not public,
            version=version if tag else None,
            # otherwise files of an earlier version would stay beside the new ones
            delete_patterns=[f"{part}/**" for part in ("configs", "docs", "models", "scripts")] + ["large_files.yml"],
            commit_message=f"{metadata['name']} {version}",
        )
    return f"{where} ({'public' if public else 'private'}{f', tag {version}' if tag else ''})"


def pull(repo: str, output: str = ".", version: str = "main", name: str | None = None) -> str:
    """Pull a bundle from the Hugging Face Hub and check that it is complete. Nothing in it is executed.

    Args:
        repo: repository, such as organisation/name.
        output: folder in which the bundle's folder is created.
        version: tag, branch or commit; default: the latest push.
        name: name of the bundle's folder; default: the name of the repository.

    Returns:
        The bundle's folder.

    Raises:
        FileExistsError: when the bundle's folder exists already.
        FileNotFoundError: when the download lacks a part of a bundle. The download is then removed.
        ValueError: when a part cannot be used. The download is then removed.
        OSError: when the hub cannot be reached or refuses.
    """
    _hub()
    folder = name or repo.rpartition("/")[2]
    target = Path(output) / folder
    if target.exists():
        raise FileExistsError(f"there is a folder {target} already: remove it, or set name or output")
    target.parent.mkdir(parents=True, exist_ok=True)
    # download beside the target and rename, so that only a complete bundle appears there
    with TemporaryDirectory(dir=target.parent, prefix=f".{folder}.") as draft:
        # MONAI fails on broken metadata; the check below reports it
        with _asking(repo), suppress(json.JSONDecodeError):
            download(
                folder, version=str(version), bundle_dir=draft, source="huggingface_hub", repo=repo, progress=False
            )
        metadata = check_bundle(Path(draft) / folder, repo)
        shutil.rmtree(Path(draft) / folder / ".cache", ignore_errors=True)
        (Path(draft) / folder).rename(target)
    if not (target / "models" / "model.pt").is_file():
        logger.warning("The weights lie elsewhere: %s", how_to_get_weights(target))
    logger.info(
        "%s %s. Its configs are code, which MONAI runs: use those of people you trust.",
        metadata["name"],
        metadata["version"],
    )
    return str(target)


def check_bundle(root: Path, source: str | None = None) -> dict[str, Any]:
    """Check a bundle by reading its metadata and its weights, without executing anything in them.

    Args:
        root: folder of the bundle.
        source: where the bundle comes from, for messages; default: the folder.

    Returns:
        The metadata.

    Raises:
        FileNotFoundError: when a file that a bundle must have is missing; names it.
        ValueError: when metadata or weights cannot be read, or the weights come from pre-training alone.
    """
    source = source or str(root)
    for name in ("configs/metadata.json", "configs/inference.json"):
        if not (root / name).is_file():
            raise FileNotFoundError(f"a bundle must have {name}, there is none in {source}")
    file = root / "configs" / "metadata.json"
    try:
        metadata = dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"metadata.json must be a JSON object, cannot read that of {source}: {error}") from error
    lacking = [key for key in ("name", "version", "monai_version", "network_data_format") if key not in metadata]
    if lacking:
        raise ValueError(f"metadata.json must have {', '.join(lacking)}, which are missing in {source}")
    weights = root / "models" / "model.pt"
    if weights.is_file():
        if "mask_ratio" in read_weights(weights)[1]:
            raise ValueError(f"weights must be of a fine-tuned network, {weights} is of pre-training")
    elif not (root / "large_files.yml").is_file():
        raise FileNotFoundError(f"a bundle must have models/model.pt or large_files.yml, there is neither in {source}")
    return metadata


def check_exported(root: Path) -> dict[str, Any]:
    """Check an exported bundle, which runs without this package, as :func:`check_bundle` does.

    Raises:
        FileNotFoundError: as :func:`check_bundle`, and when the bundle is not an exported one.
        ValueError: as :func:`check_bundle`, and when the changelog lacks the bundle's version.
    """
    if not (root / "scripts" / "__init__.py").is_file():
        raise FileNotFoundError(f"bundle must be one that ci/export_bundle.py wrote, there are no scripts in {root}")
    metadata = check_bundle(root)
    if metadata["version"] not in metadata.get("changelog", {}):
        raise ValueError(f"the changelog in {root}/configs/metadata.json must have version {metadata['version']}")
    return metadata


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ValueError(
            f"push and pull need huggingface_hub, which cannot be imported ({error}): pip install huggingface_hub "
            "(tested version: requirements-deployment.lock), then start anew"
        ) from error


def _state(api: Any, repo: str) -> tuple[bool | None, list[str]]:
    """Return whether a repository is private, or None if it does not exist, and its tags."""
    if not api.repo_exists(repo):
        return None, []
    return bool(api.repo_info(repo).private), [reference.name for reference in api.list_repo_refs(repo).tags]


def _copy(root: Path, target: Path) -> None:
    """Copy what belongs to a bundle, but no results of runs, which may show patients."""
    for source in (path for part in _PARTS for path in root.glob(part)):
        if source.is_file():
            copy = target / source.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


@contextmanager
def _asking(repo: str) -> Iterator[None]:
    """Turn any error of the hub, or of the connection to it, into an OSError of one line."""
    try:
        yield
    except Exception as error:  # from the network, the hub or the checks of huggingface_hub
        reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise OSError(f"the hub cannot be reached or refuses, for {repo}: {type(error).__name__}: {reason}") from error
