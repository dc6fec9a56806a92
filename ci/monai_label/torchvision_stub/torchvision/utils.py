# SPDX-License-Identifier: Apache-2.0

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
