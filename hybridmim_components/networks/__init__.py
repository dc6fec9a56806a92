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

"""Adaptation of stock networks to the method: encoder and decoder, dropout, speed of training, scale of weights."""

from __future__ import annotations

from hybridmim_components.networks.backbones import Backbone, backbone_of
from hybridmim_components.networks.dropout import ByteDropout, has_dropout, use_byte_dropout
from hybridmim_components.networks.execution import set_execution
from hybridmim_components.networks.scale_free import restore_scale, scale_free_norms

__all__ = [
    "Backbone",
    "ByteDropout",
    "backbone_of",
    "has_dropout",
    "restore_scale",
    "scale_free_norms",
    "set_execution",
    "use_byte_dropout",
]
