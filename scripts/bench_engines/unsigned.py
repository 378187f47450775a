"""The same quantized network with uint8 activations: `python unsigned.py SOURCE.onnx DIRECTORY STEM` in the venv.

Every integer of an activation, and its zero point, is 128 more; nothing else changes. ONNX Runtime on x86 runs such a
file in integers throughout and about twice as fast as one with int8 activations, so it is this file that shows what it
can do.
"""
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

import golden

# Their constant operand is a weight, which stays int8.
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def raised(tensor, name):
    values = numpy_helper.to_array(tensor).astype(np.int16) + 128
    return numpy_helper.from_array(values.astype(np.uint8), name)


def to_unsigned(model):
    """Changes the model in place; of a model with quantization in pairs around operators of floats."""
    graph = model.graph
    constants = {w.name: w for w in graph.initializer if w.data_type == TensorProto.INT8}
    users = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node.op_type)
    added = {}

    def raise_input(node, index):
        name = f"{node.input[index]}_u8"
        if name not in added:
            added[name] = raised(constants[node.input[index]], name)
        node.input[index] = name

    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[2] not in constants:
            continue
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            if all(user in WEIGHTED for user in users[node.output[0]]):
                continue
            raise_input(node, 0)
        raise_input(node, 2)
    used = {name for node in graph.node for name in node.input}
    kept = [w for w in graph.initializer if w.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *added.values()])
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type == TensorProto.INT8 and value.name not in constants:
            value.type.tensor_type.elem_type = TensorProto.UINT8
    onnx.checker.check_model(model)
    return model


def write(source, directory, stem):
    """`STEM.onnx` and its golden file, whose TFLite outputs are those of the int8 model and 128 more."""
    onnx.save(to_unsigned(onnx.load(source)), directory / f"{stem}.onnx")
    signed = np.load(source.with_name(f"{source.stem}.golden.npz"))
    arrays = {name: (signed[name].astype(np.int16) + 128).astype(np.uint8) for name in ("x", "tflite")}
    arrays["onnxruntime"] = golden.onnx_outputs(directory / f"{stem}.onnx", arrays["x"])
    np.savez_compressed(directory / f"{stem}.golden.npz", **arrays)


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3])
