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
    """
    return int(np.random.SeedSequence([part % 2**64 for part in parts]).generate_state(1)[0])
