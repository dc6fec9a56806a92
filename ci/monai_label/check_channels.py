# SPDX-License-Identifier: Apache-2.0

"""Warn of studies that no served bundle can segment. MONAI Label would answer with error 500 and give no reason.

python ci/monai_label/check_channels.py STUDIES BUNDLE [BUNDLE ...]
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib


def warnings_of(studies: Path, bundles: Sequence[Path]) -> list[str]:
    """Return a line for each NIfTI study that cannot be read, or whose number of channels fits none of the bundles.

    Args:
        studies: folder whose files are the studies; its subfolders, such as that of the labels, are ignored.
        bundles: folders of the bundles.
    """
    taken, found = {}, []
    for bundle in bundles:
        try:
            taken[bundle.name] = channels_of(bundle)
        except (OSError, ValueError, KeyError) as error:
            return [f"{bundle} has no metadata that name its channels, so the studies are not checked: {error!r}"]
    for path in sorted([*studies.glob("*.nii"), *studies.glob("*.nii.gz")]):
        try:
            shape = nib.load(path).shape
        except Exception as error:  # nibabel and gzip have many
            found.append(f"{path} cannot be read: {error}")
            continue
        channels = math.prod(shape[3:])
        if len(shape) < 3:
            found.append(f"{path} must have 3 axes or more, got {len(shape)}")
        elif channels not in taken.values():
            wanted = ", ".join(f"{name} takes {count}" for name, count in taken.items())
            found.append(f"{path} has {channels} channel(s), but {wanted}: the server cannot segment it (error 500)")
    return found


def channels_of(bundle: Path) -> int:
    """Return the number of channels of a bundle's images, by its metadata."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return int(metadata["network_data_format"]["inputs"]["image"]["num_channels"])


if __name__ == "__main__":
    for line in warnings_of(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]):
        print(f"start: WARNING: {line}", file=sys.stderr)
