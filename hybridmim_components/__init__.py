# SPDX-License-Identifier: Apache-2.0

"""Components of HybridMIM pre-training for the bundles' configs (Xing et al., https://arxiv.org/abs/2303.10333)."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
