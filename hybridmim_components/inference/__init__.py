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

"""Segmentation of many images, of which some may be unusable, and of large ones with little memory."""

from hybridmim_components.inference.crop_to_body import CropToBodyd, body_mask
from hybridmim_components.inference.images import CheckedImages
from hybridmim_components.inference.slabwise_invert import SlabwiseInvertd
from hybridmim_components.system.allocator import keep_freed_memory

__all__ = ["CheckedImages", "CropToBodyd", "SlabwiseInvertd", "body_mask", "keep_freed_memory"]
