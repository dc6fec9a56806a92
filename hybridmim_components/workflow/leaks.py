# SPDX-License-Identifier: Apache-2.0

"""Leaks: images that a run would both learn from and be measured on, found by their fingerprints."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hybridmim_components.data.volumes import image_files

__all__ = ["Digests", "Items", "digests_of", "names_of", "refuse_seen", "without_copies"]

logger = logging.getLogger(__name__)
Items = Sequence[Mapping[str, Any]]
#: Fingerprints of an image, one for each channel, by the image's files.
Digests = Mapping[tuple[str, ...], Sequence[str]]


def without_copies(lists: Mapping[str, Items], digests: Digests) -> dict[str, list[Mapping[str, Any]]]:
    """Leave out images of which any modality has come before.

    Otherwise, a run could validate on a copy of an image that it trains on.
    """
    seen: dict[str, str] = {}
    unique: dict[str, list[Mapping[str, Any]]] = {name: [] for name in lists}
    for name, items in lists.items():
        for item in items:
            own = names_of([item], digests)
            if known := own.keys() & seen.keys():
                logger.warning("Left out %s, since it is the same image as %s", item["image"], seen[min(known)])
            else:
                unique[name].append(item)
            for digest, file in own.items():
                seen.setdefault(digest, file)
    return unique


def digests_of(items: Items, digests: Digests) -> set[str]:
    """Return the fingerprints of images, all channels of them."""
    return {digest for item in items for digest in digests[image_files(item["image"])]}


def names_of(items: Items, digests: Digests) -> dict[str, str]:
    """Return the files of images by their fingerprints."""
    found: dict[str, str] = {}
    for item in items:
        files = image_files(item["image"])
        # a fingerprint per channel: of each file, or all of the only file
        found |= {digest: files[min(i, len(files) - 1)] for i, digest in enumerate(digests[files])}
    return found


def refuse_seen(
    items: Items, digests: Digests, seen: set[str], allowed: bool, what: str, copies: Mapping[str, str] | None = None
) -> None:
    """Refuse held-out images of which any modality was seen, or warn if that is allowed.

    Args:
        items: held-out items.
        digests: fingerprints of images by their files.
        seen: fingerprints that were seen.
        allowed: warn instead of raising.
        what: how they were seen, such as ``was trained on``.
        copies: file that was seen by its fingerprint, as far as it is known.

    Raises:
        ValueError: when an image was seen; names it.
    """
    leaks = []
    for item in items:
        files, known = image_files(item["image"]), digests_of([item], digests) & seen
        others = sorted({(copies or {}).get(digest, "") for digest in known} - {"", *files})
        if known:
            leaks.append(", ".join(files) + (f" (its name there: {', '.join(others)})" if others else ""))
    if not leaks:
        return
    message = (
        f"{len(leaks)} held-out volume(s) cannot be evaluated on: the same image {what}: {', '.join(sorted(leaks))}"
    )
    if not allowed:
        raise ValueError(
            f"{message}. Remove it there, give pre-training and training the same fold, or set allow_seen to True and "
            "do not report the figures."
        )
    logger.warning("%s. Figures on them are not figures on unseen data.", message)
