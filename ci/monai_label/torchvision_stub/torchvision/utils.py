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

"""The two functions that MONAI Label imports; calling one says that this is not torchvision."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["make_grid", "save_image"]

_MESSAGE = "{} needs torchvision, and a stub stands in for it here: install a torchvision that fits the installed torch"


def make_grid(*args: object, **kwargs: object) -> NoReturn:
    """Raise: the stub makes no grid."""
    raise NotImplementedError(_MESSAGE.format("make_grid"))


def save_image(*args: object, **kwargs: object) -> NoReturn:
    """Raise: the stub saves no image."""
    raise NotImplementedError(_MESSAGE.format("save_image"))
