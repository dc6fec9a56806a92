# SPDX-License-Identifier: Apache-2.0

"""What a study of few_labels.py is: its settings, and the record by which a folder knows whose results it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from few_labels_patients import TEST, TUNING, Patients, StudyError
from rows import read_rows

from hybridmim_components.system.files import write_text
from hybridmim_components.weights import recipe_differences

__all__ = ["Settings", "keep_record", "kept_settings", "read_settings", "record_of"]

RECORD = "study.json"
#: Settings of the bundles that the study sets for each cell.
OWN = {
    "allow_seen",
    "bundle_root",
    "ckpt_dir",
    "dataset_dir",
    "epochs",
    "lists",
    "output_dir",
    "pretrained",
    "resume",
    "seed",
    "steps_per_epoch",
    "train#dataset#data",
    "unlabelled_dirs",
    "validate#dataset#data",
}


@dataclass(frozen=True)
class Settings:
    """What a study changes for all its arms alike.

    Attributes:
        test: number of test patients.
        tuning: number of tuning patients.
        pretrain: overrides of pretrain.json.
        train: overrides of train.json, which evaluation uses, too.
    """

    test: int = TEST
    tuning: int = TUNING
    pretrain: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


def read_settings(path: Path) -> Settings:
    """Read the settings of a study from a JSON file.

    Raises:
        StudyError: when the file cannot be read, is no JSON object, or has an unknown name or an unusable value.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"cannot read the settings {path}: {error.strerror}") from None
    except ValueError as error:
        raise StudyError(f"{path} must be a JSON object: {error}") from None
    return _checked(content, str(path))


def _checked(content: Any, source: str) -> Settings:
    known = [item.name for item in fields(Settings)]
    if not isinstance(content, dict) or not content.keys() <= set(known):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise StudyError(f"{source} must be a JSON object with no other names than {', '.join(known)}, got {found}")
    settings = Settings(**content)
    for name in ("test", "tuning"):
        count = getattr(settings, name)
        if not isinstance(count, int) or count < 2:
            raise StudyError(f"{source}: {name} must be at least 2 patients, got {count!r}")
    for name in ("pretrain", "train"):
        overrides = getattr(settings, name)
        if not isinstance(overrides, dict):
            raise StudyError(f"{source}: {name} must be a JSON object of overrides, got {overrides!r}")
        if own := sorted(overrides.keys() & (OWN | ({"learning_rate"} if name == "train" else set()))):
            raise StudyError(f"{source}: {name} must leave to the study what it sets itself, got {', '.join(own)}")
    return settings


def record_of(
    bundle: str,
    patients: Patients,
    settings: Settings,
    pretraining_minutes: float,
    arms: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what the results of a study depend on, beside the values that each row has.

    Args:
        bundle: name of the bundle.
        patients: the patients, and further volumes.
        settings: what all arms change alike.
        pretraining_minutes: CPU time of each pre-training.
        arms: what each arm of the command does.
    """
    names = sorted(Path(volume if isinstance(volume, str) else volume[0]).name for volume in patients.further)
    return {
        "bundle": bundle,
        "cases": _digest(sorted(patients.cases)),
        "unlabelled_dirs": f"{len(names)} volume(s), {_digest(names)}" if names else "none",
        **asdict(settings),
        "pretraining_minutes": pretraining_minutes,
        "arms": dict(arms),
    }


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def kept_settings(folder: Path) -> Settings | None:
    """Return the settings of the study whose results a folder holds; None if it holds none.

    Raises:
        StudyError: when its record cannot be read.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        content = {item.name: record[item.name] for item in fields(Settings)}
    except (ValueError, TypeError, KeyError) as error:
        raise StudyError(f"{path} must be the record of a study: {error!r}") from None
    return _checked(content, str(path))


def keep_record(record: Mapping[str, Any], folders: Mapping[str, Path]) -> None:
    """Write the record of a study into the folders of its results, unless one of them is of another study.

    Arms of earlier commands stay in the record if they have results.

    Args:
        record: see :func:`record_of`.
        folders: folders of figures and of pre-trained weights, by the option that names them.

    Raises:
        StudyError: when a folder holds results of another study; names what differs. No folder is then changed.
    """
    arms = {folder: _arms(record, folder, option) for option, folder in folders.items()}
    for folder, kept in arms.items():
        write_text(folder / RECORD, json.dumps({**record, "arms": kept}, indent=4) + "\n")


def _arms(record: Mapping[str, Any], folder: Path, option: str) -> dict[str, Any]:
    """Return the arms of the record and those that have results in the folder, if these are of the same study."""
    path, weights = folder / RECORD, [*folder.glob("pretrained/*/done")]
    if not any([*folder.glob("*.csv"), *folder.glob("seconds_per_step.json"), *weights]):
        return dict(record["arms"])
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        used = {row.get("arm") for file in folder.glob("*.csv") for row in read_rows(file)}
        used |= {done.parent.name.rsplit("_", 2)[0] for done in weights}  # ARM_SEED_STEPS
        earlier = {name: recipe for name, recipe in known.pop("arms", {}).items() if name in used}
        changed = [f"arm {text}" for text in recipe_differences(earlier, record["arms"])]
        differences = "; ".join([*recipe_differences(known, record), *changed])
        advice = f"give another {option}" + (", or the changed arm another name" if changed else "")
    else:  # from a time when every study had these
        own = [name for name, value in asdict(Settings()).items() if record[name] != value]
        own += ["unlabelled_dirs"] if record["unlabelled_dirs"] != "none" else []
        differences = f"they were computed without own {', '.join(own)}" if own else ""
        earlier, advice = {}, f"give another {option}"
    if differences:
        raise StudyError(f"{folder} holds results of another study, {differences}: {advice}")
    return earlier | record["arms"]
