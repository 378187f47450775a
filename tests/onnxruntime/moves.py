"""Data moved, with random settings, and something to compute beside it: what only moves is no operator of an engine."""
import numpy as np
from graphs import Node, Tensor
from style import Unfit


def leaky(g, s, x, form):
    node = Node("LeakyRelu", ["x"], dict(alpha=0.125))
    if form == "QDQ":
        return g.qdq([node], {"x": x}, {}, s.fit)
    reals = g.evaluated([node], {"x": x}, {})
    of = s.fit(reals)
    if of.type is not x.of.type:
        raise Unfit
    return g.quantized("QLinearLeakyRelu", [x, of], of, reals, g.far({"x": x}, of, {}), "com.microsoft", alpha=0.125)


def moving(g, s, x, form, nodes, others):
    """Data moved: as bytes, with an operator behind; or in float, with a function behind or before."""
    if form == "QOperator" or s.chance(0.3):
        moved = g.moved(nodes, x, others)
        return leaky(g, s, moved, form)
    after = [Node("Relu", ["y"])] if s.chance(0.5) else [Node("LeakyRelu", ["y"], dict(alpha=0.125))]
    # A sum that is split before it is quantized stays in float.
    if nodes[0].op != "Split" and s.chance(0.4):
        return between(g, s, x, nodes, others)
    return g.qdq([*nodes, *after], {"x": x}, others, s.fit)


def between(g, s, x, nodes, others):
    """Data moved in float behind a Relu, and in front of one more limit, or of none."""
    moved = [Node(n.op, ["y" if r == "x" else r for r in n.reads], n.attributes, n.outputs, n.goes_on) for n in nodes]
    after, constants = s.limits()
    return g.qdq([Node("Relu", ["x"]), *moved, *after], {"x": x}, others | constants, s.fit)


def reshape(g, s, x, form, another):
    sizes = list(x.shape)
    place = int(s.random.integers(len(sizes)))
    if len(sizes) < 4 and s.chance(0.5) and sizes[place] % 2 == 0:
        sizes[place : place + 1] = [2, sizes[place] // 2]
    elif len(sizes) > 1:
        place = min(place, len(sizes) - 2)
        sizes[place : place + 2] = [sizes[place] * sizes[place + 1]]
    if s.chance(0.5):
        sizes[int(s.random.integers(len(sizes)))] = -1
    return moving(g, s, x, form, [Node("Reshape", ["x", "shape"])], {"shape": np.int64(sizes)})


def transpose(g, s, x, form, another):
    axes = [int(a) for a in s.random.permutation(len(x.shape))]
    return moving(g, s, x, form, [Node("Transpose", ["x"], dict(perm=axes))], {})


def flatten(g, s, x, form, another):
    return moving(g, s, x, form, [Node("Flatten", ["x"], dict(axis=int(s.random.integers(0, len(x.shape)))))], {})


def pad(g, s, x, form, another):
    pads = np.int64([s.random.integers(0, 3) if s.chance(0.5) else 0 for _ in range(2 * len(x.shape))])
    if np.prod(np.int64(x.shape) + pads[: len(x.shape)] + pads[len(x.shape) :]) > 1500:
        raise Unfit
    if form == "QOperator" or s.chance(0.2):
        others = {"pads": pads, "value": x.of.type(x.of.zero_point)}
        # What stands around is the zero point as a byte, and 0 in float.
        reals = g.evaluated([Node("Pad", ["x", "pads"])], {"x": x}, {"pads": pads})
        name = g.chain([Node("Pad", ["x", "pads", "value"])], {"x": x.name} | {k: g.constant(v) for k, v in others.items()})
        return leaky(g, s, Tensor(name, x.of, x.of.quantize(reals), x.far), form)
    return moving(g, s, x, form, [Node("Pad", ["x", "pads"])], {"pads": pads})


def part(g, s, x, form, another):
    starts, ends, axes, steps = [], [], [], []
    for axis, size in enumerate(x.shape):
        if size > 2 and s.chance(0.6):
            start = int(s.random.integers(0, size - 1))
            starts.append(start - size if s.chance(0.3) else start)
            ends.append(int(s.one_of([start + 1 + s.random.integers(0, size - start), 1 << 40])))
            axes.append(axis - len(x.shape) if s.chance(0.3) else axis)
            steps.append(int(s.random.integers(1, 3)))
    if not axes:
        raise Unfit
    others = {"starts": np.int64(starts), "ends": np.int64(ends), "axes": np.int64(axes), "steps": np.int64(steps)}
    return moving(g, s, x, form, [Node("Slice", ["x", *others])], others)


def split(g, s, x, form, another):
    axis = int(s.random.integers(len(x.shape)))
    size = x.shape[axis]
    if size < 2:
        raise Unfit
    first = int(s.random.integers(1, size))
    node = Node("Split", ["x", "sizes"], dict(axis=axis), 2, int(s.random.integers(2)))
    return moving(g, s, x, form, [node], {"sizes": np.int64([first, size - first])})


def resize(g, s, x, form, another):
    if len(x.shape) != 4 or np.prod(x.shape) > 300:
        raise Unfit
    scales = np.float32([1, 1, *s.random.integers(1, 4, size=2)])
    mode, nearest = s.one_of([("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")])
    attributes = dict(mode="nearest", coordinate_transformation_mode=mode, nearest_mode=nearest)
    return moving(g, s, x, form, [Node("Resize", ["x", "", "scales"], attributes)], {"scales": scales})
