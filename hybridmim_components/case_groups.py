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

"""What weights have seen of the cases that they are scored on: fingerprints tell, not names and not the fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridmim_components.data.volumes import image_files

__all__ = ["GROUPS", "case_name", "group_cases"]

#: What the weights have seen of a case.
#:
#: ``unseen``: nothing, in training, in pre-training and in the choice of the best epoch; ``validation``: it chose the
#: best epoch and did nothing else; ``pretraining``: its image; ``training``: image and label; ``unknown``: they do not
#: tell.
GROUPS = ("unseen", "validation", "pretraining", "training", "unknown")
_NEEDED = ("training_volumes", "validation_volumes")


def case_name(item: Mapping[str, Any], label_file: str | Path | None = None) -> str:
    """Name of a case in tables: its ``case_id``, or else that of the label's file.

    Args:
        item: of a data list.
        label_file: default: ``label`` of the item.

    Raises:
        ValueError: when it has neither.
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
    """Tell for each case what the weights have seen of it, be it one of its modalities.

    Args:
        items: cases with ``image``.
        digests: fingerprints by the files of the image, of :func:`.data.inspect_volumes`.
        recipe: of the weights.

    Returns:
        One of :data:`GROUPS` by the name of the case; of cases with one name the one that claims least.
    """
    seen = {group: set(recipe.get(f"{group}_volumes", [])) for group in ("training", "pretraining", "validation")}
    known = all(key in recipe for key in _NEEDED)
    groups: dict[str, str] = {}
    for item in items:
        own = set(digests[image_files(item["image"])])
        group = next((group for group, volumes in seen.items() if own & volumes), "unseen" if known else "unknown")
        name = case_name(item)
        groups[name] = max(group, groups.get(name, group), key=GROUPS.index)
    return groups
