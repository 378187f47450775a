"""Multiply-accumulates of convolutions and matrix products for one inference, of a model in float or with quantization
in pairs around the operators of floats: `python macs.py MODEL.onnx …` in the venv."""
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
        result = math.prod(shapes.get(node.output[0], [0]))
        if node.op_type == "Conv":
            total += result * math.prod(shapes.get(node.input[1], [])[1:])
        elif node.op_type in ("MatMul", "Gemm"):
            total += result * shapes.get(node.input[0], [0])[-1]
    return total


if __name__ == "__main__":
    print(json.dumps({path: multiply_accumulates(path) for path in sys.argv[1:]}))
