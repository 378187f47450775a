"""Makes the models of this folder, and what ONNX Runtime computes with them.

    python make.py          needs onnx and onnxruntime (made with 1.23.2 of onnx and 1.32.0 of onnxruntime)

Each is a small float model, quantized by `quantize_dynamic`; those named `fused` are what ONNX Runtime's optimizer makes of
such a model. A golden file holds samples of the input and of every output, one after the other along the first axis.
"""

import logging
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

logging.disable(logging.WARNING)
HERE = pathlib.Path(__file__).parent
random = np.random.default_rng(11)
BASIC = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
EXTENDED = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


def reals(*sizes, shift=0.0):
    return (random.standard_normal(sizes) + shift).astype(np.float32)


def model(nodes, constants, x, results):
    value = lambda name, sizes: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, sizes)
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    results = [value(name, sizes) for name, sizes in results.items()]
    graph = helper.make_graph(nodes, "dynamic", [value("x", x)], results, stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def session(path, level, optimized=None):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


node = helper.make_node
two = model(
    [node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "b"], ["y"]), node("MatMul", ["x", "v"], ["z"])],
    {"w": reals(20, 37), "b": reals(37), "v": reals(20, 4, shift=0.3)},
    [2, 3, 20],
    {"y": [2, 3, 37], "z": [2, 3, 4]},
)
one = model(
    [node("MatMul", ["x", "w"], ["a"]), node("Add", ["b", "a"], ["y"])],
    {"w": reals(33, 18, shift=-0.2), "b": reals(18)},
    [5, 33],
    {"y": [5, 18]},
)
conv = model(
    [node("Conv", ["x", "w", "b"], ["y"], pads=[1, 0, 1, 1], strides=[2, 1]), node("Relu", ["y"], ["r"])],
    {"w": reals(5, 3, 3, 3, shift=0.2), "b": reals(5)},
    [2, 3, 7, 6],
    {"r": [2, 5, 4, 5]},
)
grouped = model(
    [node("Conv", ["x", "w"], ["y"], group=4, auto_pad="SAME_UPPER")],
    {"w": reals(8, 1, 3, 3)},
    [1, 4, 5, 5],
    {"y": [1, 8, 5, 5]},
)
line = model(
    [node("Conv", ["x", "w", "b"], ["y"], pads=[2, 2], dilations=[2])],
    {"w": reals(3, 6, 3), "b": reals(3)},
    [1, 6, 11],
    {"y": [1, 3, 11]},
)
S8, U8 = QuantType.QInt8, QuantType.QUInt8
cases = {
    "matmul_s8": (two, S8, False),
    "matmul_s8_per_channel": (two, S8, True),
    "matmul_u8": (two, U8, False),
    "matmul_u8_per_channel": (two, U8, True),
    "matmul_s8_fused": (two, S8, True),
    "matmul_u8_fused": (two, U8, True),
    "one_s8_fused": (one, S8, True),
    "one_u8_fused": (one, U8, True),
    "conv_s8": (conv, S8, False),
    "conv_u8": (conv, U8, False),
    "conv_grouped": (grouped, U8, False),
    "conv_line": (line, S8, False),
}
for name, (made, weights, per_channel) in cases.items():
    path = HERE / f"{name}.onnx"
    with tempfile.TemporaryDirectory() as folder:
        floats, optimized = pathlib.Path(folder) / "float.onnx", pathlib.Path(folder) / "optimized.onnx"
        onnx.save(made, floats)
        quantize_dynamic(floats, path, weight_type=weights, per_channel=per_channel)
        if name.endswith("fused"):
            session(path, EXTENDED, optimized)
            optimized.replace(path)
    quantized = onnx.load(path)
    del quantized.graph.value_info[:]
    used = {n.domain for n in quantized.graph.node} | {""}
    for opset in [opset for opset in quantized.opset_import if opset.domain not in used]:
        quantized.opset_import.remove(opset)
    onnx.save(quantized, path)
    runs = session(path, BASIC)
    sizes = runs.get_inputs()[0].shape
    samples = [reals(*sizes), 0.01 * reals(*sizes, shift=2), 30 * reals(*sizes, shift=-0.7), 0 * reals(*sizes)]
    golden = {"x": np.stack(samples).astype(np.float32)}
    results = [runs.run(None, {"x": sample}) for sample in golden["x"]]
    for place, output in enumerate(runs.get_outputs()):
        golden[output.name] = np.stack([result[place] for result in results])
    np.savez_compressed(HERE / f"{name}.golden.npz", **golden)
    print(name, [n.op_type for n in quantized.graph.node])
