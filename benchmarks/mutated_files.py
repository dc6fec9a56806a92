# SPDX-License-Identifier: Apache-2.0

"""Read mutated files: each must be accepted, or refused by an error of this package that names it.

    python benchmarks/mutated_files.py --output mutated_files.csv    # a minute; --random sets how many are damaged

Each file is read in a process of its own, within a time limit. The script ends with status 1 if a file led to a
library's traceback, a message without the file's name, a patient's name, a file outside the folder, a crash or a hang.
``tests/fuzz`` makes the files, the same ones each time.
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fuzz"))

from good_files import GOOD, PATIENT, place, read  # noqa: E402
from mutations import mutations  # noqa: E402

import hybridmim_components  # noqa: E402

PACKAGE = Path(hybridmim_components.__file__).parent
FINE = ("accepted", "refused")


class Row(NamedTuple):
    """Result of reading one file."""

    kind: str
    mutation: str
    outcome: str
    """accepted, refused, unnamed, traceback, leak, escape, crash or hang."""
    seconds: float
    memory_mib: int
    """Growth of the peak memory of the process."""
    message: str


def judge(kind: str, path: Path) -> tuple[str, str]:
    """Read a file, and return the outcome and the error's message."""
    try:
        read(kind, path)
    except Exception as error:
        last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        message = f"{type(error).__name__}: {error}"
        if not isinstance(error, (ValueError, OSError)) or not last.is_relative_to(PACKAGE):
            return "traceback", message
        return ("refused" if str(path) in message else "unnamed"), message
    return "accepted", ""


def _in_child(kind: str, path: Path, answer: Connection) -> None:
    os.chdir(path.parent)
    # capture what libraries print
    with (path.parent / "printed").open("wb") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    # capture what any library logs
    logging.disable(logging.NOTSET)
    logging.basicConfig(level=logging.DEBUG, force=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome, message = judge(kind, path)
    sys.stdout.flush()
    sys.stderr.flush()
    answer.send((outcome, message, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10))


def run(kind: str, mutation: str, content: bytes, limit: float) -> Row:
    """Judge one file in a process of its own."""
    outer = Path(tempfile.mkdtemp(prefix="mutated_"))
    inner = outer / "inner"
    inner.mkdir()
    path = place(kind, content, inner)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    # forked, so that slow imports are done already
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(kind, path, sender))
    started = time.monotonic()
    child.start()
    sender.close()
    outcome, message, memory = "crash", "", 0
    try:
        if receiver.poll(limit):
            outcome, message, memory = receiver.recv()
        else:
            outcome = "hang"
            child.kill()
    except EOFError:
        pass
    child.join()
    seconds = time.monotonic() - started
    if outcome == "crash":
        message = f"exit code {child.exitcode}"
    said = message + (inner / "printed").read_text(errors="replace") if (inner / "printed").exists() else message
    names = [str(p.relative_to(outer)) for p in outer.rglob("*")]
    if any(word in text for word in PATIENT.split("^") for text in (said, *names)):
        outcome = "leak"
    # malicious pickles write a file "ran", malicious archives a file "evil"
    if any(Path(name).name in ("ran", "evil") for name in names) or len(list(outer.iterdir())) > 1:
        outcome = "escape"
    shutil.rmtree(outer)
    return Row(kind, mutation, outcome, round(seconds, 3), memory, message.replace(str(inner), "FOLDER"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--output", type=Path, help="CSV file, a row per mutated file")
    parser.add_argument("--kinds", nargs="+", default=list(GOOD), choices=list(GOOD))
    parser.add_argument("--random", type=int, default=25, help="damaged files of each kind")
    parser.add_argument("--every", type=int, default=1, help="take each N-th file only")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds for a file")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    rows = []
    for kind in options.kinds:
        # read a good file here first, so that no forked process repeats the slow imports
        with tempfile.TemporaryDirectory() as folder:
            read(kind, place(kind, GOOD[kind](), Path(folder)))
        good = run(kind, "none", GOOD[kind](), options.limit)
        if good.outcome != "accepted":
            sys.exit(f"the good {kind} file must be accepted, got {good.outcome}: {good.message}")
        for index, (mutation, content) in enumerate(mutations(kind, options.random)):
            if index % options.every == 0:
                rows.append(run(kind, mutation, content, options.limit))
                if rows[-1].outcome not in FINE:
                    print(f"{kind}, {mutation}: {rows[-1].outcome}: {rows[-1].message[:300]}", file=sys.stderr)
    if options.output:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([Row._fields, *rows])
        options.output.write_text(text.getvalue(), encoding="utf-8", errors="backslashreplace")
    _summarise(rows)
    sys.exit(any(row.outcome not in FINE for row in rows))


def _summarise(rows: list[Row]) -> None:
    outcomes = (*FINE, "unnamed", "traceback", "leak", "escape", "crash", "hang")
    print(f"| kind | files | {' | '.join(outcomes)} | slowest [s] | most memory [MiB] |")
    print("|" + "---|" * (len(outcomes) + 4))
    for kind in (*dict.fromkeys(row.kind for row in rows), "all"):
        own = [row for row in rows if kind in (row.kind, "all")]
        counts = Counter(row.outcome for row in own)
        numbers = [len(own), *(counts[outcome] for outcome in outcomes)]
        slowest, most = max(row.seconds for row in own), max(row.memory_mib for row in own)
        print(f"| {kind} | {' | '.join(map(str, numbers))} | {slowest:.1f} | {most} |")


if __name__ == "__main__":
    main()
