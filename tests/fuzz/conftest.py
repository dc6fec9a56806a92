# SPDX-License-Identifier: Apache-2.0

"""The same examples in every run; ``--hypothesis-profile explore`` looks for others."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# the corpus is shared with benchmarks/mutated_files.py
sys.path.insert(0, str(Path(__file__).parent))

_COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, max_examples=40, **_COMMON)
settings.register_profile("explore", max_examples=2000, **_COMMON)
settings.load_profile("repeatable")
