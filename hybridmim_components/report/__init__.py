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

"""What a person looks at after a run: one picture and one table, or one page with the volumes in it."""

from __future__ import annotations

from hybridmim_components.report.overview import draw_overview, summary
from hybridmim_components.report.page import write_report

__all__ = ["draw_overview", "summary", "write_report"]
