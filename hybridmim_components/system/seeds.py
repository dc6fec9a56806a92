# SPDX-License-Identifier: Apache-2.0

"""Seeds of each item and each step from the run's seed, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

import numpy as np

__all__ = ["seed_of"]


def seed_of(*parts: int) -> int:
    """Derive a seed from all parts and from nothing else.

    Args:
        parts: any integers, such as the run's seed, the epoch and the number of the item.

    Returns:
        Integer of 32 bits.

    Example:
        >>> seed_of(0, 1), seed_of(1, 0)
        (3964924996, 1835504127)
    """
    return int(np.random.SeedSequence([part % 2**64 for part in parts]).generate_state(1)[0])
