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

"""Stand-in for torchvision if no build of it fits torch. It only makes MONAI Label importable.

MONAI Label 0.8.5 imports two functions of torchvision.utils that only its 2D and DeepEdit tasks call. The torchvision
of PyPI cannot be imported beside a CPU build of torch. start.sh puts this folder on the path only if the real package
cannot be imported.
"""

__version__ = "0.0.0"
