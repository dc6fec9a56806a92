# SPDX-License-Identifier: Apache-2.0

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
