# SPDX-License-Identifier: Apache-2.0

"""Segmentation of many images, of which some may be unusable, and of large ones with little memory."""

from hybridmim_components.inference.crop_to_body import CropToBodyd, body_mask
from hybridmim_components.inference.images import CheckedImages
from hybridmim_components.inference.slabwise_invert import SlabwiseInvertd
from hybridmim_components.inference.trained_settings import require_trained_settings
from hybridmim_components.system.allocator import keep_freed_memory

__all__ = [
    "CheckedImages",
    "CropToBodyd",
    "SlabwiseInvertd",
    "body_mask",
    "keep_freed_memory",
    "require_trained_settings",
]
