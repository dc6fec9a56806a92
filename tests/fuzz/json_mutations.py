# SPDX-License-Identifier: Apache-2.0

"""JSON files that a parser takes and a reader should not, and others."""

from __future__ import annotations

import json
from collections.abc import Iterator

from good_files import DATASET, RECIPE

Named = Iterator[tuple[str, bytes]]


def any_json(good: bytes) -> Named:
    yield from {
        "empty": b"",
        "null": b"null",
        "list": b"[1, 2]",
        "pairs": b'[["labels", {}]]',
        "number": b"1e999",
        "deep list": b"[" * 100_000,
        "deep object": b'{"labels":' * 100_000,
        "long number": b'{"labels": {"0": ' + b"9" * 10_000 + b"}}",
        "byte order mark": b"\xef\xbb\xbf" + good,
        "UTF-16": good.decode().encode("utf-16"),
        "Latin 1": good.replace(b'"', b'"\xe4', 1),
        "half": good[: len(good) // 2],
        "NUL": good.replace(b" ", b"\0"),
        "twice": good + good,
        "a name twice": b'{"labels": {"0": "a", "0": "b"}, "volumes": [], "volumes": []}',
        "lone surrogate": b'{"labels": {"0": "\\ud800"}, "volumes": ["\\ud800"]}',
    }.items()


def dataset_json(good: bytes) -> Named:
    yield from any_json(good)
    table = json.dumps(DATASET["labels"])
    for name, labels in {
        "NaN": '{"0": NaN}',
        "no table": "null",
        "list": '["background", "spleen"]',
        "string": '"spleen"',
        "no label": "{}",
        "names for values": '{"background": 0}',
        "fraction": '{"0.5": "a"}',
        "negative": '{"-1": "a"}',
        "one value twice": '{"1": "a", "01": "b"}',
        "long value": f'{{"{"9" * 5000}": "a"}}',
        "number for a name": '{"0": 7}',
        "long name": f'{{"0": "{"a" * 100_000}"}}',
    }.items():
        yield f"labels: {name}", json.dumps(DATASET).replace(table, labels).encode()
    outside = {**DATASET, "training": [{"image": "../../../etc/hostname", "label": "/etc/hostname"}]}
    yield "paths outside", json.dumps(outside).encode()


def recipe_json(good: bytes) -> Named:
    yield from any_json(good)
    for name, change in {
        "volumes: a number": {"volumes": 7},
        "volumes: a string": {"volumes": "ab"},
        "volumes: lists": {"volumes": [["ab"]]},
        "volumes: NaN": {"spacing": [float("nan")]},
    }.items():
        yield name, json.dumps({**RECIPE, **change}).encode()
