"""Operators with random settings. Each puts one into a graph behind a tensor, as QDQ or as QOperator, and yields its
result; what does not fit the tensor raises Unfit. `another` yields one more tensor of a shape."""
import numpy as np
from graphs import Node, Quantization, Weights
from moves import flatten, moving, pad, part, reshape, resize, split, transpose
from style import Unfit


def finish(g, s, nodes, reads, others, gains={}, limited=True):
    after, constants = s.limits() if limited else ([], {})
    return g.qdq([*nodes, *after], reads, others | constants, s.fit, gains)


def quantized(g, s, node, reads, others, op, inputs, gains={}, **attributes):
    """The quantized operator instead of a node; `inputs` gets its output's quantization."""
    reals = g.evaluated([node], reads, others)
    of = s.fit(reals)
    if {of.type} != {t.of.type for t in reads.values()}:
        raise Unfit
    domain = "" if op in ("QLinearConv", "QLinearMatMul") else "com.microsoft"
    return g.quantized(op, inputs(of), of, reals, g.far(reads, of, gains), domain, **attributes)


def conv(variant):
    def put(g, s, x, form, another):
        spatial = len(x.shape) - 2
        if spatial not in (1, 2) or (spatial == 1) != (variant == "of a line"):
            raise Unfit
        channels, sizes = x.shape[1], x.shape[2:]
        kernel = [1] * spatial if variant == "1x1" else [int(s.random.integers(1, 5)) for _ in sizes]
        strides = [1] * spatial if s.chance(0.6) else [int(s.random.integers(1, 4)) for _ in sizes]
        dilations = [1] * spatial if s.chance(0.7) or variant == "1x1" else [int(s.random.integers(1, 3)) for _ in sizes]
        pads = [0] * 2 * spatial
        if variant != "1x1" and s.chance(0.7):
            pads = [int(s.random.integers(0, k)) for k in [*kernel, *kernel]]
        if any(n + pads[i] + pads[i + spatial] < (kernel[i] - 1) * dilations[i] + 1 for i, n in enumerate(sizes)):
            raise Unfit
        groups = 1
        if variant == "depthwise":
            groups = channels
        elif variant == "grouped":
            groups = s.one_of([n for n in range(2, channels) if channels % n == 0] or [0])
        if groups < 1 or (variant == "depthwise" and groups == 1):
            raise Unfit
        each = int(s.random.integers(1, 3)) if variant == "depthwise" else int(s.random.integers(1, 24 // groups + 2))
        if variant == "1x1" and s.chance(0.2):
            each = int(s.random.integers(40, 100))
        if each * groups * np.prod(kernel) * channels // groups > 900:
            raise Unfit
        w = s.weights([each * groups, channels // groups, *kernel], 0, x.of.type is np.int8 and form == "QOperator")
        attributes = dict(strides=strides, dilations=dilations, pads=pads, group=groups)
        if max(dilations) == 1 and s.chance(0.15):
            del attributes["pads"]
            attributes["auto_pad"] = s.one_of(["SAME_UPPER", "SAME_LOWER"])
        return sums(g, s, x, form, "Conv", w, each * groups, attributes)

    return put


def sums(g, s, x, form, op, w, channels, attributes):
    """A convolution or dense layer, with a bias of one kind or another."""
    reads, others, names = {"x": x}, {"w": w}, ["x", "w"]
    kind = s.random.random()
    if op != "MatMul" and kind < 0.7:
        others["b"], names = s.bias(x, w, channels), ["x", "w", "b"]
        if kind < 0.15 and form == "QDQ":
            others["b"] = others["b"].reals()
            if op == "Gemm" and s.chance(0.5):
                # One for each row, or for all.
                others["b"] = others["b"][:1].reshape(1, 1) * np.float32(s.random.integers(1, 9, size=(s.one_of([1, x.shape[0]]), 1)))
    node = Node(op, names, attributes)
    gains = {"x": w.sizes().sum(axis=tuple(a for a in range(w.values.ndim) if a != w.axis)).max()}
    if form == "QOperator":
        bias = others["b"].values if "b" in others else None
        name = {"Conv": "QLinearConv", "MatMul": "QLinearMatMul", "Gemm": "QGemm"}[op]
        if op == "Gemm":
            return quantized(g, s, node, reads, others, name, lambda of: [x, w, bias, of], gains, **attributes)
        inputs = lambda of: [x, w, of] + ([bias] if bias is not None else [])
        return quantized(g, s, node, reads, others, name, inputs, gains, **attributes)
    nodes = [node]
    if op == "MatMul" and kind < 0.5:
        others["b"] = np.float32(s.random.normal(0, 1, size=channels))
        nodes.append(Node("Add", ["y", "b"]))
    return finish(g, s, nodes, reads, others, gains)


def gemm(g, s, x, form, another):
    if len(x.shape) != 2:
        raise Unfit
    channels, turned = int(s.random.integers(1, 30)), int(s.chance(0.5))
    if s.chance(0.2):
        channels = x.shape[0]
    depth = x.shape[1]
    if depth * channels > 1200:
        raise Unfit
    shape, axis = ([channels, depth], 0) if turned else ([depth, channels], 1)
    w = s.weights(shape, axis, x.of.type is np.int8 and form == "QOperator")
    return sums(g, s, x, form, "Gemm", w, channels, dict(transB=turned))


def matmul(g, s, x, form, another):
    if len(x.shape) < 2 or x.shape[-1] > 60:
        raise Unfit
    channels = int(s.random.integers(1, 20))
    w = s.weights([x.shape[-1], channels], 1, x.of.type is np.int8 and form == "QOperator")
    return sums(g, s, x, form, "MatMul", w, channels, {})


def matmul_of_two(g, s, x, form, another):
    if len(x.shape) < 2 or x.shape[-1] > 60:
        raise Unfit
    columns = int(s.random.integers(1, 12))
    outer = [1] * (4 - len(x.shape)) if s.chance(0.2) else x.shape[:-2]
    other = another([*outer, x.shape[-1], columns])
    node, reads = Node("MatMul", ["x", "z"]), {"x": x, "z": other}
    gains = {"x": other.sizes().sum(axis=-2).max(), "z": x.sizes().sum(axis=-1).max()}
    if form == "QOperator":
        return quantized(g, s, node, reads, {}, "QLinearMatMul", lambda of: [x, other, of], gains)
    return finish(g, s, [node], reads, {}, gains)


def two(op):
    def put(g, s, x, form, another):
        rank = len(x.shape)
        shape = list(x.shape)
        kind = s.random.random()
        if kind < 0.25:
            shape = [n if s.chance(0.5) else 1 for n in shape]
        elif kind < 0.4:
            shape = shape[int(s.random.integers(0, rank)) :]
        if kind < 0.55 and s.chance(0.4):
            info, of = np.iinfo(s.types[0]), Quantization(s.types[0], s.scale(0.02), 3)
            values = s.random.integers(info.min, info.max, size=shape, dtype=of.type, endpoint=True)
            if values.size == 1:
                raise Unfit
            other = Weights(values, np.float32(of.scale), of.type(of.zero_point))
            reads, others = {"x": x}, {"z": other}
        else:
            other = another(shape)
            reads, others = {"x": x, "z": other}, {}
        gains = {"x": other.sizes().max(), "z": x.sizes().max()} if op == "Mul" else {}
        names = ["x", "z"] if s.chance(0.6) else ["z", "x"]
        if form == "QOperator":
            if op == "Sub":
                raise Unfit
            both = {"x": x, "z": other}
            if isinstance(other, Weights) and other.values.dtype != x.of.type:
                raise Unfit
            inputs = lambda of: [*(both[name] for name in names), of]
            return quantized(g, s, Node(op, names), reads, others, f"QLinear{op}", inputs, gains)
        return finish(g, s, [Node(op, names)], reads, others, gains)

    return put


def concat(g, s, x, form, another):
    axis = int(s.random.integers(len(x.shape)))
    parts = [x]
    for _ in range(int(s.random.integers(1, 3))):
        shape = list(x.shape)
        shape[axis] = int(s.random.integers(1, 5))
        parts.append(another(shape))
    if s.chance(0.5):
        parts.reverse()
    reads = {f"x{i}": t for i, t in enumerate(parts)}
    node = Node("Concat", [*reads], dict(axis=axis))
    if form == "QOperator":
        return quantized(g, s, node, reads, {}, "QLinearConcat", lambda of: [of, *parts], axis=axis)
    return finish(g, s, [node], reads, {})


def pool(op):
    def put(g, s, x, form, another):
        if len(x.shape) != 4:
            raise Unfit
        kernel = [int(s.random.integers(1, 4)) for _ in range(2)]
        pads = [int(s.random.integers(0, k)) if s.chance(0.4) else 0 for k in [*kernel, *kernel]]
        attributes = dict(kernel_shape=kernel, strides=[int(s.random.integers(1, 4)) for _ in range(2)], pads=pads)
        if any(x.shape[2 + i] + pads[i] + pads[2 + i] < kernel[i] for i in range(2)):
            raise Unfit
        if op == "AveragePool" and s.chance(0.3):
            attributes["count_include_pad"] = 1
        elif form == "QDQ" and s.chance(0.2):
            attributes["ceil_mode"] = 1
        node = Node(op, ["x"], attributes)
        if op == "MaxPool":
            return moving(g, s, x, form, [node], {})
        if form == "QOperator":
            return quantized(g, s, node, {"x": x}, {}, "QLinearAveragePool", lambda of: [x, of], **attributes)
        return finish(g, s, [node], {"x": x}, {})

    return put


def global_pool(g, s, x, form, another):
    if len(x.shape) != 4:
        raise Unfit
    node = Node("GlobalAveragePool", ["x"])
    if form == "QOperator":
        return quantized(g, s, node, {"x": x}, {}, "QLinearGlobalAveragePool", lambda of: [x, of])
    return finish(g, s, [node], {"x": x}, {})


def mean(g, s, x, form, another):
    if form == "QOperator":
        raise Unfit
    axes = sorted(int(a) for a in s.random.choice(len(x.shape), size=int(s.random.integers(1, 3)), replace=False))
    node = Node("ReduceMean", ["x"], dict(axes=axes, keepdims=int(len(axes) == len(x.shape) or s.chance(0.5))))
    return finish(g, s, [node], {"x": x}, {})


def unary(op):
    def put(g, s, x, form, another):
        node, others = Node(op, ["x"]), {}
        # The steepest of it.
        gains = {"x": {"Sigmoid": 0.25, "HardSwish": 1.5}.get(op, 1.0)}
        if op == "LeakyRelu":
            node.attributes = dict(alpha=float(s.one_of([0.01, 0.1, 0.3])))
        if op == "Clip":
            node.reads, others = ["x", "low", "high"], {"low": np.float32(s.random.uniform(-2, 0)), "high": np.float32(s.random.uniform(0.5, 3))}
        if form == "QOperator":
            if op not in ("LeakyRelu", "Sigmoid"):
                raise Unfit
            return quantized(g, s, node, {"x": x}, others, f"QLinear{op}", lambda of: [x, of], gains, **node.attributes)
        return finish(g, s, [node], {"x": x}, others, gains, limited=False)

    return put


def softmax(g, s, x, form, another):
    # The last axis: what ONNX Runtime's quantized operator is defined over in every version.
    axis = int(s.random.integers(len(x.shape))) if form == "QDQ" else len(x.shape) - 1
    node = Node("Softmax", ["x"], dict(axis=axis))
    if form == "QOperator":
        return quantized(g, s, node, {"x": x}, {}, "QLinearSoftmax", lambda of: [x, of], axis=axis, opset=13)
    return finish(g, s, [node], {"x": x}, {}, limited=False)


PICTURE, ANY = (4,), (2, 3, 4)
# By name: what puts it in, how many axes it reads, and in how many graphs it is alone.
OPERATORS = {
    "Conv 1x1": (conv("1x1"), PICTURE, 12),
    "Conv": (conv("any"), PICTURE, 18),
    "Conv grouped": (conv("grouped"), PICTURE, 10),
    "Conv depthwise": (conv("depthwise"), PICTURE, 14),
    "Conv of a line": (conv("of a line"), (3,), 6),
    "Gemm": (gemm, (2,), 14),
    "MatMul": (matmul, ANY, 14),
    "MatMul of two": (matmul_of_two, ANY, 10),
    "Add": (two("Add"), ANY, 16),
    "Sub": (two("Sub"), ANY, 8),
    "Mul": (two("Mul"), ANY, 14),
    "Concat": (concat, ANY, 10),
    "AveragePool": (pool("AveragePool"), PICTURE, 12),
    "GlobalAveragePool": (global_pool, PICTURE, 8),
    "ReduceMean": (mean, ANY, 6),
    "MaxPool": (pool("MaxPool"), PICTURE, 8),
    "Softmax": (softmax, ANY, 12),
    **{op: (unary(op), ANY, 6) for op in ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "Tanh")},
    "Resize": (resize, PICTURE, 6),
    "Reshape": (reshape, ANY, 6),
    "Transpose": (transpose, ANY, 6),
    "Flatten": (flatten, ANY, 4),
    "Pad": (pad, ANY, 6),
    "Slice": (part, ANY, 6),
    "Split": (split, ANY, 6),
}
