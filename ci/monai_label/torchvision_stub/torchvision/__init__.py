# SPDX-License-Identifier: Apache-2.0

"""Stand-in for torchvision if no build of it fits torch. It only makes MONAI Label importable.

MONAI Label 0.8.5 imports two functions of torchvision.utils that only its 2D and DeepEdit tasks call. The torchvision
of PyPI cannot be imported beside a CPU build of torch. start.sh puts this folder on the path only if the real package
cannot be imported.
"""

__version__ = "0.0.0"
