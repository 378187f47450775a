"""Which model files there are, and which of them one run measures."""
import dataclasses
import fnmatch
import pathlib

import bench_engines.peers as peers

TINY = ["ad", "kws", "ic", "vww", "sww"]


@dataclasses.dataclass
class Case:
    """One row of the table: the same network in one form, as files for the engines that can read it."""

    stem: str
    onnx: pathlib.Path
    tflite: pathlib.Path | None
    macs: int = 0


def case(directory, stem):
    tflite = directory / f"{stem}.tflite"
    return Case(stem, directory / f"{stem}.onnx", tflite if tflite.exists() else None)


def cases(root, interpreter, patterns, say):
    """The rows for the patterns: by default every model in integers, as TFLite's converter made it or else onnxruntime's
    quantizer. A name of a network alone stands for that default form."""
    wanted = lambda stem: any(fnmatch.fnmatch(stem, p) or stem == f"{p}_int8" for p in patterns)
    default = not patterns
    found = []
    tiny = root.parent / "shared" / "models" / "mlperf-tiny"
    if tiny.is_dir():
        stems = [f"{name}_{form}" for name in TINY for form in ("int8", "f32") if (tiny / f"{name}_{form}.onnx").exists()]
        found += [case(tiny, stem) for stem in stems if (stem.endswith("_int8") if default else wanted(stem))]
    else:
        say(f"skipped: the MLPerf Tiny models, because there is no {tiny}")
    # A network is generated only if one of its forms may be asked for.
    names = [n for n in peers.NETWORKS if default or any(p.startswith(n) or fnmatch.fnmatch(n, p.split("_")[0] + "*") or
                                                         "*" in p for p in patterns)]
    directory, facts = peers.generated(interpreter, names, say)
    for name in names:
        stems = facts[name]["files"]
        usual = next((s for s in (f"{name}_int8", f"{name}_s8s8_qdq", f"{name}_u8s8_qdq") if s in stems), None)
        found += [case(directory, s) for s in stems if (s == usual if default else wanted(s))]
    counts = peers.macs(interpreter, [str(c.onnx) for c in found])
    for one in found:
        one.macs = counts[str(one.onnx)]
    return found
