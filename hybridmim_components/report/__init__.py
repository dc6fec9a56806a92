# SPDX-License-Identifier: Apache-2.0

"""What a person looks at after a run: one picture and one table, or one page with the volumes in it."""

from __future__ import annotations

from hybridmim_components.report.overview import draw_overview, summary
from hybridmim_components.report.page import write_report

__all__ = ["draw_overview", "summary", "write_report"]
