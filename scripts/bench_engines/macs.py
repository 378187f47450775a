"""Multiply-accumulates of convolutions and matrix products for one inference: `python macs.py MODEL.onnx …` in the venv."""
import json
import math
import sys

import onnx


def multiply_accumulates(path):
    """Zero where a shape stays unknown; a batch of unknown size counts as one."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    shapes = {v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim]
              for v in [*graph.value_info, *graph.output, *graph.input]}
    shapes |= {w.name: list(w.dims) for w in graph.initializer}
    total = 0
    for node in graph.node:
        # A quantized operator has scale and zero point after each tensor.
        step = 3 if node.op_type.startswith("QLinear") else 1
        operands = [shapes.get(node.input[i * step], []) for i in range(2)] if len(node.input) > step else []
        result = shapes.get(node.output[0], [])
        if node.op_type in ("Conv", "QLinearConv", "ConvInteger"):
            total += math.prod(result) * math.prod(operands[1][1:])
        elif node.op_type in ("MatMul", "Gemm", "QLinearMatMul", "MatMulInteger"):
            total += math.prod(result) * (operands[0][-1] if operands[0] else 0)
    return total


if __name__ == "__main__":
    print(json.dumps({path: multiply_accumulates(path) for path in sys.argv[1:]}))
