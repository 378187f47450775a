"""A quantized ONNX graph in the making: operators between quantizations (QDQ), and quantized operators (QOperator)."""
import dataclasses

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
SAMPLES = 2
CODES = {np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8, np.float32: TensorProto.FLOAT}


@dataclasses.dataclass
class Quantization:
    type: type
    scale: np.float32
    zero_point: int

    def quantize(self, reals):
        info = np.iinfo(self.type)
        return np.clip(np.rint(reals / self.scale) + self.zero_point, info.min, info.max).astype(self.type)

    def dequantize(self, values):
        return (values.astype(np.int32) - self.zero_point).astype(np.float32) * self.scale


@dataclasses.dataclass
class Tensor:
    """Bytes of the graph, with about what they are on each sample."""

    name: str
    of: Quantization
    values: np.ndarray
    # How many quanta it can be away where each operator before it was one away.
    far: float = 0.0

    @property
    def shape(self):
        return list(self.values.shape[1:])

    def reals(self):
        return self.of.dequantize(self.values)

    def sizes(self):
        """Of its values at most, however far it is."""
        return np.abs(self.reals()) + self.far * self.of.scale


@dataclasses.dataclass
class Weights:
    """Constant integers with one scale, or one for each index along an axis."""

    values: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int = 0

    def reals(self):
        shape = [1] * self.values.ndim
        if self.scales.ndim:
            shape[self.axis] = -1
        difference = self.values.astype(np.int64) - self.zero_points.astype(np.int64).reshape(shape)
        return difference.astype(np.float32) * self.scales.reshape(shape)

    def sizes(self):
        return np.abs(self.reals())


@dataclasses.dataclass
class Node:
    """An operator that is not in a graph yet. It reads names that its graph gives a meaning to, and `y`: what the one
    before yields. Of several outputs one goes on."""

    op: str
    reads: list
    attributes: dict = dataclasses.field(default_factory=dict)
    outputs: int = 1
    goes_on: int = 0


def session(model, optimized):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Graph:
    def __init__(self, random):
        self.random = random
        self.nodes, self.constants, self.inputs, self.outputs = [], {}, [], []
        # What each input is on each sample; what one quantum of each output is, and how many it may be away; the float
        # names of tensors.
        self.feeds, self.quanta, self.bounds, self.reals = {}, {}, {}, {}
        # Operators that round.
        self.operators, self.made_up = 0, 0

    def fresh(self):
        self.made_up += 1
        return f"t{self.made_up}"

    def constant(self, array):
        array = np.asarray(array)
        for name, known in self.constants.items():
            if known.dtype == array.dtype and known.shape == array.shape and (known == array).all():
                return name
        name = self.fresh()
        self.constants[name] = array
        return name

    def parameters(self, of):
        return [self.constant(np.float32(of.scale)), self.constant(of.type(of.zero_point))]

    def node(self, op, inputs, outputs=1, domain="", **attributes):
        names = [self.fresh() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, names[0], domain=domain, **attributes))
        return names

    def chain(self, nodes, names):
        """Puts operators in, one behind the other, and tells what the last yields."""
        names = {"": "", **names}
        for node in nodes:
            found = self.node(node.op, [names[name] for name in node.reads], node.outputs, **node.attributes)
            names["y"] = found[node.goes_on]
        return names["y"]

    def input(self, shape, of, as_float=False):
        info = np.iinfo(of.type)
        values = self.random.integers(info.min, info.max, size=(SAMPLES, *shape), dtype=of.type, endpoint=True)
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, CODES[np.float32 if as_float else of.type], shape))
        if not as_float:
            self.feeds[name] = values
            return Tensor(name, of, values)
        # On the steps and between them, and beyond the ends. Half precision makes a small file.
        reals = of.dequantize(values) * self.random.choice([0.75, 1.0, 1.25, 1.5], size=values.shape)
        self.feeds[name] = reals.astype(np.float16).astype(np.float32)
        quantized = self.node("QuantizeLinear", [name, *self.parameters(of)])[0]
        return Tensor(quantized, of, of.quantize(self.feeds[name]))

    def output(self, tensor, as_float=False):
        name = f"y{len(self.outputs)}"
        self.outputs.append(helper.make_tensor_value_info(name, CODES[np.float32 if as_float else tensor.of.type], tensor.shape))
        self.quanta[name], self.bounds[name] = float(tensor.of.scale) if as_float else 1.0, tensor.far
        if as_float:
            self.node("DequantizeLinear", [tensor.name, *self.parameters(tensor.of)])
            self.nodes[-1].output[0] = name
            return
        for node in self.nodes:
            node.output[:] = [name if output == tensor.name else output for output in node.output]
            node.input[:] = [name if given == tensor.name else given for given in node.input]
        tensor.name = name

    def real(self, tensor):
        """Dequantized: by a node for each reader, or one for all."""
        if tensor.name not in self.reals or self.random.random() < 0.5:
            self.reals[tensor.name] = self.node("DequantizeLinear", [tensor.name, *self.parameters(tensor.of)])[0]
        return self.reals[tensor.name]

    def other(self, value):
        """A constant, dequantized where it is quantized."""
        if not isinstance(value, Weights):
            return self.constant(value)
        parts = [self.constant(part) for part in (value.values, value.scales, value.zero_points)]
        return self.node("DequantizeLinear", parts, axis=value.axis)[0]

    def evaluated(self, nodes, reads, others):
        """What operators yield in float, on each sample."""
        own = Graph(self.random)
        own.constants = {k: v.reals() if isinstance(v, Weights) else np.asarray(v) for k, v in others.items()}
        own.inputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, t.shape) for k, t in reads.items()]
        name = own.chain(nodes, {k: k for k in [*reads, *others]})
        own.outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        run = session(own.serialized(), False)
        feeds = [{k: t.reals()[sample] for k, t in reads.items()} for sample in range(SAMPLES)]
        return np.stack([run.run(None, feed)[0] for feed in feeds])

    def far(self, reads, of, gains):
        """How far a result is: what it reads, times how much it makes of that, and its own rounding. 1 where none is
        told."""
        carried = sum(gains.get(k, 1.0) * t.far * t.of.scale / of.scale for k, t in reads.items())
        return min(255.0, 1.0 + float(carried))

    def qdq(self, nodes, reads, others, fit, gains={}):
        """Operators between dequantization and quantization; `fit` tells what the result is quantized to."""
        reals = self.evaluated(nodes, reads, others)
        of = fit(reals)
        names = {k: self.real(t) for k, t in reads.items()} | {k: self.other(v) for k, v in others.items()}
        name = self.node("QuantizeLinear", [self.chain(nodes, names), *self.parameters(of)])[0]
        self.operators += 1
        return Tensor(name, of, of.quantize(reals), self.far(reads, of, gains))

    def moved(self, nodes, tensor, others):
        """Bytes moved as they are."""
        reals = self.evaluated(nodes, {"x": tensor}, others)
        name = self.chain(nodes, {"x": tensor.name} | {k: self.constant(v) for k, v in others.items()})
        return Tensor(name, tensor.of, tensor.of.quantize(reals), tensor.far)

    def quantized(self, op, inputs, of, reals, far, domain, **attributes):
        """A quantized operator. Tensors, weights and the output's quantization stand for themselves and their
        parameters."""
        names = []
        for given in inputs:
            if isinstance(given, Tensor):
                names += [given.name, *self.parameters(given.of)]
            elif isinstance(given, Weights):
                names += [self.constant(part) for part in (given.values, given.scales, given.zero_points)]
            elif isinstance(given, Quantization):
                names += self.parameters(given)
            else:
                names.append("" if given is None else self.constant(given))
        self.operators += 1
        return Tensor(self.node(op, names, domain=domain, **attributes)[0], of, of.quantize(reals), far)

    def mark(self):
        return len(self.nodes), len(self.inputs), dict(self.feeds), dict(self.reals), self.operators

    def rewind(self, mark):
        """Takes out what came after a mark."""
        nodes, inputs, self.feeds, self.reals, self.operators = mark
        del self.nodes[nodes:], self.inputs[inputs:]

    def serialized(self):
        read = {name for node in self.nodes for name in node.input}
        constants = [numpy_helper.from_array(v, k) for k, v in self.constants.items() if k in read]
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, constants)
        domains = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, ir_version=8, opset_imports=domains).SerializeToString()

    def model(self):
        onnx.checker.check_model(self.serialized())
        return self.serialized()
