"""Random quantized graphs, and what ONNX Runtime yields for them: `~/.cache/sedge/peers/venv/bin/python make.py` writes
`graphs.npz` beside itself, the same from the same seed.

Needs onnx and onnxruntime, as `scripts/bench-engines` installs them, and a core with VNNI: without it ONNX Runtime's
kernels saturate sums of two products of uint8 and int8. What a graph yields with all optimizations off is what ONNX says
that it means, and is kept first; what it yields as ONNX Runtime is by default is kept too where that differs.

The archive has `index`, a list in JSON, and `bytes`: for each graph of the list its model, then for each sample all
inputs, all outputs, and all outputs by default where they differ.
"""
import json
import pathlib

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors
from graphs import SAMPLES, Graph, session
from operators import OPERATORS
from style import Style, Unfit

SEED = 104
CHAINS = 96
TRIES_MAX = 400
# An operator without a kernel for its types, and pools whose sizes ONNX Runtime infers otherwise than it computes them.
REFUSALS = (errors.NotImplemented, errors.Fail)


def shape_of(random, rank):
    if rank == 4:
        return [int(random.integers(1, 3)), int(random.integers(1, 13)), int(random.integers(3, 9)), int(random.integers(3, 9))]
    if rank == 3:
        return [int(random.integers(1, 4)), int(random.integers(1, 9)), int(random.integers(3, 16))]
    return [int(random.integers(1, 9)), int(random.integers(2, 40))]


def single(seed, put, ranks, form):
    random = np.random.default_rng(seed)
    g, s = Graph(random), Style(random)
    edges = form == "QDQ" and s.chance(0.25)
    x = g.input(shape_of(random, s.one_of(ranks)), s.fresh(), edges)
    y = put(g, s, x, form, lambda shape: g.input(shape, s.fresh(), edges))
    g.output(y, edges)
    return g


def chain(seed, length, form):
    random = np.random.default_rng(seed)
    g, s = Graph(random), Style(random)
    edges = form == "QDQ" and s.chance(0.25)
    made = [g.input(shape_of(random, s.one_of([4, 4, 4, 3, 2])), s.fresh(), edges)]
    names = list(OPERATORS)

    def another(shape):
        """One that is there, as in a residual block, or one more input."""
        fitting = [t for t in made if t.shape == shape]
        if fitting and s.chance(0.85):
            return s.one_of(fitting)
        if len(g.inputs) > 2 or np.prod(shape) > 600:
            raise Unfit
        return g.input(shape, s.fresh(), edges)

    for _ in range(TRIES_MAX):
        if g.operators == length:
            break
        x = made[-1] if s.chance(0.8) else s.one_of(made[-4:])
        put, ranks, _ = OPERATORS[s.one_of(list(OPERATORS))]
        if len(x.shape) not in ranks or np.prod(x.shape) < 3:
            continue
        mark = g.mark()
        try:
            y = put(g, s, x, s.one_of(["QDQ", "QOperator"]) if form == "mixed" else form, another)
            if np.prod(y.shape) > 1200:
                raise Unfit
            made.append(y)
        except Unfit:
            g.rewind(mark)
    if g.operators != length:
        raise Unfit
    # What nothing reads is an output, or it would not be computed.
    read = {name for node in g.nodes for name in node.input}
    for tensor in [t for t in made[1:] if t.name not in read]:
        g.output(tensor, edges)
    return g


def answers(model, feeds, optimized):
    run = session(model, optimized)
    return [run.run(None, {k: v[sample] for k, v in feeds.items()}) for sample in range(SAMPLES)]


def entry(name, kind, form, g):
    """A graph's line of the index, and its bytes."""
    model = g.model()
    expected, default = (answers(model, g.feeds, optimized) for optimized in (False, True))
    flat = np.concatenate([y.ravel() for y in expected[0]])
    if flat.size > 8 and np.unique(flat).size < 4:
        raise Unfit
    pairs = [(a, b, q) for s in range(SAMPLES) for a, b, q in zip(expected[s], default[s], g.quanta.values())]
    differs = any((a != b).any() for a, b, _ in pairs)
    parts = [model]
    for sample in range(SAMPLES):
        parts += [x[sample].tobytes() for x in g.feeds.values()]
        parts += [y.tobytes() for y in expected[sample]]
        parts += [y.tobytes() for y in default[sample]] if differs else []
    line = {
        "name": name,
        "kind": kind,
        "form": form,
        "operators": g.operators,
        "model": len(model),
        "inputs": {k: x[0].nbytes for k, x in g.feeds.items()},
        "outputs": [
            {"name": k, "bytes": y.nbytes, "quantum": q, "bound": round(g.bounds[k], 3)}
            for (k, q), y in zip(g.quanta.items(), expected[0])
        ],
        "default_differs": differs,
    }
    far = max(float(np.abs(a.astype(np.float64) - b).max() / q) for a, b, q in pairs)
    return line, b"".join(parts), far


def collected():
    """All graphs, in order. A seed that yields nothing fitting, or what ONNX Runtime does not run, is passed over."""
    plans = [(kind, kind, single, (put, ranks), count) for kind, (put, ranks, count) in OPERATORS.items()]
    plans += [(f"chain of {n}", "chain", chain, (n,), CHAINS // 8) for n in range(3, 11)]
    seed = SEED * 1_000_000
    for name, kind, make, arguments, count in plans:
        found, passed = 0, 0
        forms = ["QDQ", "QOperator", "mixed"] if kind == "chain" else ["QDQ", "QOperator"]
        while found < count:
            # After a while only the form that all operators have.
            form = forms[found % len(forms)] if passed < 40 * (found + 1) else "QDQ"
            seed += 1
            try:
                made = entry(f"{name} {found}", kind, form, make(seed, *arguments, form))
            except (Unfit, *REFUSALS):
                passed += 1
                continue
            found += 1
            yield made


def main():
    made = list(collected())
    for line, _, far in made:
        print(f"{line['name']:24} {line['form']:10} by default {far:g} quanta away")
    index = json.dumps([line for line, _, _ in made], separators=(",", ":")).encode()
    everything = b"".join(part for _, part, _ in made)
    arrays = {"index": np.frombuffer(index, np.uint8), "bytes": np.frombuffer(everything, np.uint8)}
    np.savez_compressed(pathlib.Path(__file__).with_name("graphs.npz"), **arrays)
    print(f"{len(made)} graphs, {len(everything)} bytes, seed {SEED}, ONNX Runtime {onnxruntime.__version__}")


if __name__ == "__main__":
    main()
