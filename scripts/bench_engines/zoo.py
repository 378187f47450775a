"""Which model files there are, and which of them one run measures."""
import dataclasses
import fnmatch
import pathlib
import re

import bench_engines.peers as peers

TINY = ["ad", "kws", "ic", "vww", "sww"]


@dataclasses.dataclass
class Case:
    """One row of the table: the same network in one form, as files for the engines that can read it."""

    stem: str
    onnx: pathlib.Path
    tflite: pathlib.Path | None
    # The same network with uint8 activations, which ONNX Runtime prefers; only of a row in int8.
    unsigned: pathlib.Path | None = None
    macs: int = 0


def case(directory, stem):
    tflite = directory / f"{stem}.tflite"
    return Case(stem, directory / f"{stem}.onnx", tflite if tflite.exists() else None)


def in_integers(name, stems):
    """The usual integer form of a network: as TFLite's converter made it, or else as onnxruntime's quantizer did."""
    return next((s for s in (f"{name}_int8", f"{name}_s8s8_qdq", f"{name}_u8s8_qdq") if s in stems), None)


def wanted(stem, name, usual, patterns):
    """Whether the patterns ask for a form of a network; its name alone, or no pattern, asks for the usual one."""
    return any(fnmatch.fnmatch(stem, p) or (p == name and stem == usual) for p in patterns or [usual or ""])


def rows(name, directory, stems, patterns, interpreter):
    """The rows of one network. Its form with uint8 activations is made where one of them needs it."""
    usual, found, unsigned = in_integers(name, stems), [], None
    if f"{name}_int8" in stems and any(wanted(s, name, usual, patterns) for s in (f"{name}_int8", f"{name}_u8")):
        unsigned = case(*peers.unsigned(interpreter, directory / f"{name}_int8.onnx"))
    for stem in stems:
        if wanted(stem, name, usual, patterns):
            found.append(case(directory, stem))
            if stem == f"{name}_int8":
                found[-1].unsigned = unsigned.onnx
    if wanted(f"{name}_u8", name, usual, patterns):
        found.append(unsigned)
    return found


def cases(root, interpreter, patterns, say):
    """The rows that the patterns ask for. Networks that none of their forms is asked of are not generated."""
    # The part of a pattern before its first wildcard says which networks it could mean.
    starts = [re.split(r"[*?\[]", p)[0] for p in patterns]
    names = [n for n in peers.NETWORKS if not patterns or any(n.startswith(s) or s.startswith(n) for s in starts)]
    directory, facts = peers.generated(interpreter, names, say)
    found = []
    tiny = root.parent / "shared" / "models" / "mlperf-tiny"
    if tiny.is_dir():
        for name in TINY:
            stems = [s for s in (f"{name}_int8", f"{name}_f32") if (tiny / f"{s}.onnx").exists()]
            found += rows(name, tiny, stems, patterns, interpreter)
    else:
        say(f"skipped: the MLPerf Tiny models, because there is no {tiny}")
    counts = peers.macs(interpreter, [str(one.onnx) for one in found])
    for one in found:
        one.macs = counts[str(one.onnx)]
    for name in names:
        for one in rows(name, directory, facts[name]["files"], patterns, interpreter):
            one.macs = facts[name]["macs"]
            found.append(one)
    return found
