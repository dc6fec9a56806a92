# SPDX-License-Identifier: Apache-2.0

"""What weights have seen of the cases they are scored on, judged by fingerprints and not by names or folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridmim_components.data.volumes import image_files
from hybridmim_components.weights.saving import has_unknown_volumes

__all__ = ["GROUPS", "case_name", "group_cases"]

#: What the weights have seen of a case.
#:
#: ``unseen``: nothing, since training, pre-training and the choice of the best epoch did not use the case;
#: ``validation``: only the choice of the best epoch used it; ``pretraining``: its image; ``training``: its image and
#: label; ``unknown``: the recipe of the weights, or of those that they started from, does not say.
GROUPS = ("unseen", "validation", "pretraining", "training", "unknown")
_NEEDED = ("training_volumes", "validation_volumes")


def case_name(item: Mapping[str, Any], label_file: str | Path | None = None) -> str:
    """Return the name of a case in tables: its ``case_id``, or else the name of its label file.

    Args:
        item: item of a data list.
        label_file: label file of the case; default: ``label`` of the item.

    Raises:
        ValueError: when there is neither a ``case_id`` nor a label file.

    Example:
        >>> case_name({"case_id": "liver_3"}), case_name({"label": "labelsTr/liver_3.nii.gz"})
        ('liver_3', 'liver_3')
    """
    if "case_id" in item:
        return str(item["case_id"])
    file = label_file or item.get("label")
    if not file:
        raise ValueError("a case needs a name: neither case_id in the batch item nor filename_or_obj in the label")
    return Path(Path(str(file)).name.removesuffix(".gz")).stem


def group_cases(
    items: Sequence[Mapping[str, Any]], digests: Mapping[tuple[str, ...], Sequence[str]], recipe: Mapping[str, Any]
) -> dict[str, str]:
    """Find out what the weights have seen of each case. A case counts as seen if one of its modalities was seen.

    Args:
        items: cases with ``image``.
        digests: fingerprints by the files of the image, as :func:`.data.inspect_volumes` returns them.
        recipe: recipe of the weights.

    Returns:
        One of :data:`GROUPS` for each name of a case. If several cases have the same name, it is the group that stands
        last in :data:`GROUPS`.

    Example:
        >>> items = [{"case_id": "a", "image": "a.nii.gz"}, {"case_id": "b", "image": "b.nii.gz"}]
        >>> digests = {("a.nii.gz",): ["1f0c"], ("b.nii.gz",): ["97ab"]}
        >>> group_cases(items, digests, recipe={"training_volumes": ["97ab"], "validation_volumes": []})
        {'a': 'unseen', 'b': 'training'}
        >>> group_cases(items, digests, recipe={})
        {'a': 'unknown', 'b': 'unknown'}
        >>> started_from_unknown = {"training_volumes": ["97ab"], "validation_volumes": [], "unknown_volumes": True}
        >>> group_cases(items, digests, recipe=started_from_unknown)
        {'a': 'unknown', 'b': 'training'}
    """
    seen = {group: set(recipe.get(f"{group}_volumes", [])) for group in ("training", "pretraining", "validation")}
    known = all(key in recipe for key in _NEEDED) and not has_unknown_volumes(recipe)
    groups: dict[str, str] = {}
    for item in items:
        own = set(digests[image_files(item["image"])])
        group = next((group for group, volumes in seen.items() if own & volumes), "unseen" if known else "unknown")
        name = case_name(item)
        groups[name] = max(group, groups.get(name, group), key=GROUPS.index)
    return groups
