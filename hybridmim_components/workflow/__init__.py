# SPDX-License-Identifier: Apache-2.0

"""Parts of a run: checks before it starts, its engines and handlers, and resuming after an interruption."""
