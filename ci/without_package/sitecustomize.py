# SPDX-License-Identifier: Apache-2.0

"""Block imports of hybridmim_components in every Python process that has this folder on PYTHONPATH."""

from __future__ import annotations

import sys


class _NotInstalled:
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "hybridmim_components":
            raise ModuleNotFoundError("hybridmim_components is not installed here", name=name)


sys.meta_path.insert(0, _NotInstalled())
