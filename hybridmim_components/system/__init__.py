# SPDX-License-Identifier: Apache-2.0

"""Tools for the operating system, Python and the command line: files, locks, signals, seeds, errors."""
