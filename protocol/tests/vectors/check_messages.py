#!/usr/bin/env python3
"""Holds docs/protocol against implementations that are not ours; run by hand when the protocol changes.

Needs `pip install cbor2 pycddl pyyaml` (checked with 6.3.0, 0.6.4 and 6.0.3). Each vector must be what cbor2 writes in
canonical form, say the same as its JSON, and satisfy its rule of the CDDL, also without room for unknown keys; and the
AsyncAPI document must be YAML whose references resolve.
"""
import base64
import json
import pathlib
import re
import struct

import cbor2
import pycddl
import yaml

docs = pathlib.Path(__file__).resolve().parents[3] / "docs" / "protocol"
cddl = (docs / "telemetry.cddl").read_text()
closed = re.sub(r",?\s*\* text => any,?", "", cddl)
messages = re.findall(r"name: ([a-z-]+),", (docs / "asyncapi.yaml").read_text())
rules = {m.replace("-", "_") for m in messages} | {"chunk_index"}


def same(c, j):
    """Whether CBOR and JSON say the same; JSON has no byte strings, and writes 32-bit floats in few digits."""
    if isinstance(c, bytes):
        return base64.b64decode(j) == c
    if isinstance(c, float):
        return c == j or struct.unpack("f", struct.pack("f", j))[0] == c
    if isinstance(c, dict):
        return c.keys() == j.keys() and all(same(c[k], j[k]) for k in c)
    if isinstance(c, list):
        return len(c) == len(j) and all(map(same, c, j))
    return type(c) is type(j) and c == j


checked = 0
for path in sorted((docs / "vectors").glob("*.hex")):
    stem = path.stem.replace("-", "_")
    rule = max((r for r in rules if stem.startswith(r)), key=len)
    data = bytes.fromhex(path.read_text())
    decoded = cbor2.loads(data)
    assert cbor2.dumps(decoded, canonical=True) == data, f"{path.name}: not canonical"
    assert same(decoded, json.loads(path.with_suffix(".json").read_text())), f"{path.name}: says something else"
    pycddl.Schema(f"start = {rule}\n{closed}").validate_cbor(data)
    changed = cbor2.dumps({**decoded, "stray_key": 1})
    try:
        pycddl.Schema(f"start = {rule}\n{closed}").validate_cbor(changed)
        raise SystemExit(f"{rule}: the closed schema takes anything")
    except pycddl.ValidationError:
        pass
    # Not for the others: after a choice that failed, pycddl 0.6.4 takes the next one's keys for `* text => any`.
    if rule in ("ack", "announcement", "chunk", "chunk_index", "desired", "reply", "want"):
        pycddl.Schema(f"start = {rule}\n{cddl}").validate_cbor(changed)
    checked += 1

document = yaml.safe_load((docs / "asyncapi.yaml").read_text())


def references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


found = set(references(document))
for reference in found:
    node = document
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
print(f"{checked} vectors, {len(found)} references")
