"""Writes the vectors beside this file. Made with tuf 7.0.1, securesystemslib 1.6.0 and Python 3.11.

    python3 -m venv venv && venv/bin/pip install tuf==7.0.1 'securesystemslib[crypto]==1.6.0'
    venv/bin/python python-tuf.py
"""

import json
import pathlib
from datetime import datetime, timezone

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

HERE = pathlib.Path(__file__).parent
EXPIRES = datetime(2030, 1, 1, tzinfo=timezone.utc)


def signer(seed):
    private = Ed25519PrivateKey.from_private_bytes(bytes([seed] * 32))
    return CryptoSigner(private, SSlibKey.from_crypto(private.public_key()))


def write(name, value):
    (HERE / name).write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n")


def repository(pretty):
    serializer = JSONSerializer(compact=not pretty)

    def file(signed, *seeds):
        metadata = Metadata(signed)
        for seed in seeds:
            metadata.sign(signer(seed), append=True)
        return metadata.to_bytes(serializer)

    root = Root(version=1, expires=EXPIRES, consistent_snapshot=True)
    for role, seeds in {"root": [1, 2, 3], "timestamp": [4], "snapshot": [5], "targets": [6, 7]}.items():
        for seed in seeds:
            root.add_key(signer(seed).public_key, role)
    root.roles["root"].threshold = 2
    root.roles["targets"].threshold = 2
    first = file(root, 1, 2)
    root.version = 2
    root.revoke_key(signer(1).public_key.keyid, "root")
    root.add_key(signer(8).public_key, "root")
    root.unrecognized_fields["note"] = {"quotes": "\"\\", "lines": "a\nb\tc", "text": "ä😀", "number": -1}
    second = file(root, 1, 2, 8)

    team = Targets(version=3, expires=EXPIRES)
    team.targets["digits/x"] = TargetFile.from_data("digits/x", b"a bundle", ["sha256", "sha512"])
    team.targets["digits/x"].unrecognized_fields["custom"] = {"name": "digits", "bytes": 8}
    team_file = file(team, 9)
    binned = Targets(version=1, expires=EXPIRES)
    binned.targets["letters/y"] = TargetFile.from_data("letters/y", b"another", ["sha256"])
    binned_file = file(binned, 10)

    targets = Targets(version=2, expires=EXPIRES)
    targets.targets["top"] = TargetFile.from_data("top", b"contents", ["sha256"])
    targets.delegations = Delegations(keys={}, roles={
        "team": DelegatedRole("team", [], 1, True, paths=["digits/*"]),
        "bin": DelegatedRole("bin", [], 1, False, path_hash_prefixes=[f"{d:x}" for d in range(16)]),
    })
    targets.add_key(signer(9).public_key, "team")
    targets.add_key(signer(10).public_key, "bin")
    targets_file = file(targets, 6, 7)
    snapshot = Snapshot(version=4, expires=EXPIRES, meta={
        "targets.json": MetaFile.from_data(2, targets_file, ["sha256", "sha512"]),
        "team.json": MetaFile.from_data(3, team_file, ["sha256"]),
        "bin.json": MetaFile(1),
    })
    snapshot_file = file(snapshot, 5)
    timestamp = Timestamp(version=5, expires=EXPIRES,
                          snapshot_meta=MetaFile.from_data(4, snapshot_file, ["sha256"]))
    return {
        "roots": [first.decode(), second.decode()],
        "timestamp": file(timestamp, 4).decode(),
        "snapshot": snapshot_file.decode(),
        "targets": targets_file.decode(),
        "delegated": {"team": team_file.decode(), "bin": binned_file.decode()},
    }


write("python-tuf-repository.json", {"compact": repository(False), "pretty": repository(True)})

VALUES = [
    None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**64 - 1, "", "a", "\"", "\\", "\\\"\\\\", "\n\r\t\b\f\x00\x1f\x7f", "/",
    "ä", "😀", "\u2028\u2029\ufeff\uffff", "e\u0301", [], {}, [[], {}], [1, [2, [3]]],
    {"b": 1, "a": 2}, {"a": {"z": 1, "y": [1, 2]}, "A": 1, "": 0}, {"\uff61": 1, "\U00010000": 2, "a\"b": 3, "a\\": 4},
    {"aa": 1, "a": 2, "ab": 3, "a b": 4, "a-b": 5, "Z": 6, "é": 7}, {"1": 1, "10": 2, "9": 3},
]
write("securesystemslib-canonical.json", [
    {"json": json.dumps(v), "canonical": encode_canonical(v)} for v in VALUES
])
