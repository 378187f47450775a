#!/usr/bin/env python3
"""Writes cbor2.json and ../../corpus/cbor, and holds appendix_a.json against cbor2.

Needs `pip install cbor2` (made with 6.3.0). The results are committed; `cargo test -p sedge-protocol` replays them.
cbor2's canonical form sorts keys shorter first; for text keys that is the order of RFC 8949 section 4.2.1.
"""
import json
import math
import pathlib
import random

import cbor2

here = pathlib.Path(__file__).resolve().parent
corpus = here.parent.parent / "corpus" / "cbor"


def same(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return a == b


for vector in json.loads((here / "appendix_a.json").read_text()):
    decoded = cbor2.loads(bytes.fromhex(vector["hex"]))
    if "json" in vector:
        assert same(decoded, vector["json"]), vector
    if vector["accepted"]:
        written = cbor2.dumps(decoded, canonical=True).hex()
        assert written == vector.get("written", vector["hex"]), (vector, written)

rng = random.Random(8949)


def value(depth):
    kind = rng.randrange(8 if depth < 4 else 6)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([1, -1]) * rng.randrange(1 << rng.choice([4, 5, 8, 16, 32, 63]))
    if kind == 2:
        return rng.choice([0.0, -0.0, 0.5, 1.1, 65504.0, 65505.5, 6e-8, 16777216.5, 6.103515625e-05])
    if kind == 3:
        # Few digits: serde_json reads longer ones a last bit off.
        return round(rng.uniform(-1000, 1000), 3)
    if kind in (4, 5):
        return "".join(rng.choice("abz_Ä水🦩\\\" 0") for _ in range(rng.choice([0, 1, 3, 23, 24, 25, 60])))
    if kind == 6:
        return [value(depth + 1) for _ in range(rng.choice([0, 1, 3, 24]))]
    return {value_text(): value(depth + 1) for _ in range(rng.choice([0, 1, 3, 9, 24]))}


def value_text():
    return "".join(rng.choice("abcz_ÄÖ水🦩") for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 12, 23, 24])))


vectors = []
while len(vectors) < 60:
    v = value(0)
    encoded = cbor2.dumps(v, canonical=True)
    if len(encoded) < 1200:
        vectors.append({"hex": encoded.hex(), "json": v})
(here / "cbor2.json").write_text("[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in vectors) + "\n]\n")

corpus.mkdir(parents=True, exist_ok=True)
files = {
    "accepted-canonical-map": bytes.fromhex("a2616102616201"),
    "accepted-unsorted-map": bytes.fromhex("a2616201616102"),
    "accepted-long-integer": bytes.fromhex("1b0000000000000001"),
    "accepted-long-text-length": bytes.fromhex("7b000000000000000161"),
    "accepted-nan-payload": bytes.fromhex("fb7ff8000000000001"),
    "accepted-depth-16": b"\x81" * 16 + b"\x00",
    "accepted-smallest-integer": bytes.fromhex("3bffffffffffffffff"),
    "refused-depth-17": b"\x81" * 17 + b"\x00",
    "refused-depth-4000": b"\x81" * 4000,
    "refused-depth-of-maps": b"\xa1\x61a" * 1000,
    "refused-tags-in-tags": b"\xc1" * 100,
    "refused-array-of-2-to-the-47": bytes.fromhex("9b0000800000000000") + b"\x00" * 8,
    "refused-map-of-2-to-the-47": bytes.fromhex("bb0000800000000000") + b"\x60\x00" * 4,
    "refused-bytes-of-2-to-the-47": bytes.fromhex("5b0000800000000000") + b"\x00" * 8,
    "refused-text-of-2-to-the-64": bytes.fromhex("7bffffffffffffffff") + b"\x00" * 8,
    "refused-length-that-wraps-around": bytes.fromhex("825bfffffffffffffff600"),
    "refused-trailing-byte": bytes.fromhex("a000"),
    "refused-two-items": bytes.fromhex("a0a0"),
    "refused-empty": b"",
    "refused-half-a-header": bytes.fromhex("1a0000"),
    "refused-duplicate-key": bytes.fromhex("a2617601617602"),
    "refused-duplicate-key-in-another-form": bytes.fromhex("a261760178017602"),
    "refused-duplicate-empty-key": bytes.fromhex("a260016002"),
    "refused-integer-key": bytes.fromhex("a10102"),
    "refused-bytes-key": bytes.fromhex("a1417602"),
    "refused-map-as-key": bytes.fromhex("a1a000"),
    "refused-map-without-last-value": bytes.fromhex("a2617601617a"),
    "refused-indefinite-array": bytes.fromhex("9f0102ff"),
    "refused-indefinite-map": bytes.fromhex("bf617601ff"),
    "refused-indefinite-text": bytes.fromhex("7f6161ff"),
    "refused-indefinite-key": bytes.fromhex("a17f6161ff00"),
    "refused-stray-break": bytes.fromhex("81ff"),
    "refused-undefined": bytes.fromhex("f7"),
    "refused-simple-value": bytes.fromhex("f0"),
    "refused-two-byte-simple-value": bytes.fromhex("f814"),
    "refused-tagged-time": bytes.fromhex("c11a514b67b0"),
    "refused-reserved-header": bytes.fromhex("1e"),
    "refused-reserved-float": bytes.fromhex("fc"),
    "refused-overlong-utf8": bytes.fromhex("62c0af"),
    "refused-surrogate-utf8": bytes.fromhex("63eda080"),
}
for name, data in files.items():
    (corpus / f"{name}.cbor").write_bytes(data)
print(f"{len(vectors)} vectors, {len(files)} files")
