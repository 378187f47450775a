"""Small TFLite models for the tests, and what TensorFlow Lite answers: each operator that is read, in a file of its own.

Made once with TensorFlow 2.21: python make.py FOLDER. Weights and samples come from a fixed seed. `*_uint8` are the
int8 models rewritten in the older scheme, with weights that have a zero point.
"""
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import flatbuffers
import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

FOLDER = sys.argv[1]


def random(*shape, scale=1.0):
    return tf.constant((RANDOM.normal(size=shape) * scale).astype(np.float32))


def convert(name, function, shapes, float_edges=False, scale=1.0):
    signature = [tf.TensorSpec(s, tf.float32) for s in shapes]
    concrete = tf.function(function, input_signature=signature).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], concrete)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    draws = [[(RANDOM.normal(size=s) * scale).astype(np.float32) for s in shapes] for _ in range(16)]
    converter.representative_dataset = lambda: iter(draws)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if not float_edges:
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    model = strip(converter.convert())
    save(name, model)
    return model


def strip(model):
    """Without metadata and names that tell of the machine that made it."""
    m = schema.ModelT.InitFromPackedBuf(model)
    m.metadata, m.signatureDefs, m.description = [], [], "sedge test"
    for code in m.operatorCodes:
        # The converter asks for a version of TILE that the same release's interpreter does not have.
        code.version = 1 if code.builtinCode == schema.BuiltinOperator.TILE else code.version
    for graph in m.subgraphs:
        for index, tensor in enumerate(graph.tensors):
            tensor.name = f"t{index}"
            tensor.quantization.min = tensor.quantization.max = None
    used = {t.buffer for g in m.subgraphs for t in g.tensors}
    for index, buffer in enumerate(m.buffers):
        if index not in used:
            buffer.data = None
    return pack(m)


def pack(m):
    builder = flatbuffers.Builder(1024)
    builder.Finish(m.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def save(name, model):
    open(os.path.join(FOLDER, name + ".tflite"), "wb").write(model)
    # The reference kernels are the definition; XNNPACK's are what runs on devices. Both are kept.
    arrays = {}
    for kind in ("reference", "xnnpack"):
        resolver = tf.lite.experimental.OpResolverType
        interpreter = tf.lite.Interpreter(
            model_content=model,
            experimental_op_resolver_type=resolver.BUILTIN_REF if kind == "reference" else resolver.AUTO,
        )
        try:
            interpreter.allocate_tensors()
        except RuntimeError as error:
            print(name, "has no reference:", str(error)[:80])
            continue
        random = np.random.default_rng(7)
        runs = []
        for sample in range(4):
            for index, detail in enumerate(interpreter.get_input_details()):
                if detail["dtype"] == np.float32:
                    x = random.normal(size=detail["shape"]).astype(np.float32)
                else:
                    info = np.iinfo(detail["dtype"])
                    x = random.integers(info.min, info.max + 1, size=detail["shape"], dtype=detail["dtype"])
                interpreter.set_tensor(detail["index"], x)
                if kind == "xnnpack":
                    arrays.setdefault(f"x{index}", []).append(x)
            interpreter.invoke()
            for index, detail in enumerate(interpreter.get_output_details()):
                arrays.setdefault(f"{kind}{index}", []).append(interpreter.get_tensor(detail["index"]))
    np.savez_compressed(os.path.join(FOLDER, name + ".golden.npz"), **{k: np.stack(v) for k, v in arrays.items()})
    m = schema.ModelT.InitFromPackedBuf(model)
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in m.operatorCodes]
    print(f"{name:22} {len(model):6} " + " ".join(codes[o.opcodeIndex] for o in m.subgraphs[0].operators))


def older(name, model, zero_point=117):
    """The same model in the uint8 scheme: bytes shifted by 128, weights less the same for all their channels."""
    m = schema.ModelT.InitFromPackedBuf(model)
    graph = m.subgraphs[0]
    for operator in graph.operators:
        code = m.operatorCodes[operator.opcodeIndex]
        code.version = 1
        if max(code.builtinCode, code.deprecatedBuiltinCode) in (3, 4, 9):
            x, weights, bias = (graph.tensors[i] for i in operator.inputs)
            scale = float(np.max(weights.quantization.scale))
            values = np.frombuffer(bytes(bytearray(m.buffers[weights.buffer].data)), np.int8).astype(np.int32)
            # As the older converter had it: the least and the largest weight stand at the ends.
            low, high = int(values.min()), int(values.max())
            values = np.rint((values - low) * 255.0 / (high - low)).astype(np.int32)
            weights.quantization.scale = [scale * (high - low) / 255.0]
            weights.quantization.zeroPoint = [int(round(-low * 255.0 / (high - low)))]
            weights.type = schema.TensorType.UINT8
            m.buffers[weights.buffer].data = list(values.astype(np.uint8))
            if bias.quantization is not None:
                bias.quantization.scale = [float(np.float32(x.quantization.scale[0]) * np.float32(weights.quantization.scale[0]))]
                bias.quantization.zeroPoint = [0]
    for tensor in graph.tensors:
        if tensor.type == schema.TensorType.INT8:
            tensor.type = schema.TensorType.UINT8
            tensor.quantization.zeroPoint = [int(z) + 128 for z in tensor.quantization.zeroPoint]
            buffer = m.buffers[tensor.buffer]
            if buffer.data is not None:
                buffer.data = list((np.array(buffer.data, np.uint8) ^ 128).astype(np.uint8))
    save(name, pack(m))


def conv(x):
    w = random(3, 3, 5, 7, scale=0.3)
    y = tf.nn.relu6(tf.nn.conv2d(x, w, 2, "SAME") + random(7))
    return tf.nn.conv2d(y, random(1, 1, 7, 4, scale=0.3), 1, "VALID") + random(4)


def small_conv(x):
    y = tf.nn.relu(tf.nn.conv2d(x, random(3, 3, 2, 3, scale=0.3), 1, "SAME") + random(3))
    return tf.nn.depthwise_conv2d(y, random(2, 2, 3, 2, scale=0.5), [1, 1, 1, 1], "VALID") + random(6)


MODELS = {
    "conv": lambda n: convert(n, conv, [(1, 7, 9, 5)]),
    "conv_dilated": lambda n: convert(n, lambda x: tf.nn.conv2d(x, random(3, 2, 4, 3, scale=0.3), 1, "SAME", dilations=[2, 3]) + random(3), [(1, 9, 8, 4)]),
    "conv_pad": lambda n: convert(n, lambda x: tf.nn.max_pool2d(tf.pad(tf.nn.relu(tf.nn.conv2d(tf.pad(x, [[0, 0], [1, 2], [2, 1], [0, 0]]), random(3, 3, 3, 4, scale=0.3), 2, "VALID")), [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 2, "VALID"), [(1, 8, 8, 3)]),
    "conv_grouped": lambda n: convert(n, lambda x: tf.nn.conv2d(x, random(3, 3, 2, 6, scale=0.3), 1, "VALID") + random(6), [(1, 5, 6, 6)]),
    "depthwise": lambda n: convert(n, lambda x: tf.nn.relu(tf.nn.depthwise_conv2d(x, random(3, 3, 5, 2, scale=0.4), [1, 2, 2, 1], "SAME") + random(10)), [(1, 7, 8, 5)]),
    "dense": lambda n: convert(n, lambda x: tf.nn.relu(tf.matmul(x, random(12, 9, scale=0.4)) + random(9)), [(3, 12)]),
    "small_conv": lambda n: convert(n, small_conv, [(1, 6, 5, 2)]),
    "add": lambda n: convert(n, lambda a, b: tf.nn.relu(a + b * 3.0), [(1, 4, 5, 3), (1, 4, 5, 3)]),
    "add_broadcast": lambda n: convert(n, lambda a, b: a + b + random(3), [(1, 1, 1, 3), (1, 4, 5, 3)]),
    "sub": lambda n: convert(n, lambda a, b: a - b, [(1, 4, 5, 3), (1, 1, 5, 3)]),
    "mul": lambda n: convert(n, lambda a, b: tf.nn.relu6(a * b), [(1, 4, 5, 3), (1, 4, 5, 3)]),
    "squared_difference": lambda n: convert(n, lambda a, b: tf.math.squared_difference(a, b), [(1, 4, 5, 3), (1, 4, 5, 1)]),
    "mul_outer": lambda n: convert(n, lambda a, b: a * b, [(1, 4, 1), (1, 1, 6)]),
    "concat": lambda n: convert(n, lambda a, b: tf.concat([a, b * 2.0], 2), [(1, 3, 4, 5), (1, 3, 2, 5)]),
    "average_pool": lambda n: convert(n, lambda x: tf.nn.avg_pool2d(x, [3, 2], [2, 2], "SAME"), [(1, 7, 7, 4)]),
    "max_pool": lambda n: convert(n, lambda x: tf.nn.relu(tf.nn.max_pool2d(x, 3, 2, "SAME")), [(1, 7, 6, 4)]),
    "mean": lambda n: convert(n, lambda x: tf.reduce_mean(x, [1, 2]), [(1, 5, 7, 6)]),
    "mean_last": lambda n: convert(n, lambda x: tf.reduce_mean(x, -1, keepdims=True), [(2, 5, 7)]),
    "resize": lambda n: convert(n, lambda x: tf.compat.v1.image.resize_nearest_neighbor(x, [6, 12]), [(1, 3, 4, 5)]),
    "tile": lambda n: convert(n, lambda x: tf.tile(x, [1, 2, 1, 3]), [(1, 3, 4, 5)]),
    "transpose": lambda n: convert(n, lambda x: tf.reshape(tf.transpose(tf.reshape(x, [1, 2, 3, 2, 5, 4]), [0, 1, 3, 2, 4, 5]), [1, 4, 15, 4]), [(1, 6, 10, 4)]),
    "transpose_nchw": lambda n: convert(n, lambda x: tf.squeeze(tf.transpose(x, [0, 3, 1, 2]), [0]), [(1, 6, 5, 4)]),
    "pad": lambda n: convert(n, lambda x: tf.pad(x, [[0, 0], [1, 0], [0, 2], [3, 1]]), [(1, 3, 4, 5)]),
    "softmax": lambda n: convert(n, tf.nn.softmax, [(3, 11)], scale=4.0),
    "logistic": lambda n: convert(n, tf.sigmoid, [(2, 64)], scale=3.0),
    "tanh": lambda n: convert(n, tf.tanh, [(2, 64)], scale=2.0),
    "hard_swish": lambda n: convert(n, lambda x: x * tf.nn.relu6(x + 3.0) * np.float32(1 / 6), [(2, 64)], scale=3.0),
    "leaky_relu": lambda n: convert(n, lambda x: tf.nn.leaky_relu(x, 0.1), [(2, 64)]),
    "relu": lambda n: convert(n, lambda x: tf.nn.relu6(tf.reshape(x, [1, 128]) ), [(2, 64)], scale=4.0),
    "gelu": lambda n: convert(n, lambda x: tf.nn.gelu(x), [(2, 64)], scale=2.0),
    "negated": lambda n: convert(n, lambda x: tf.square(x) * -tf.reduce_mean(x, -1, keepdims=True), [(2, 64)]),
    "split": lambda n: convert(n, lambda x: tf.split(x, 3, 3), [(1, 2, 3, 6)]),
    "slice": lambda n: convert(n, lambda x: tf.slice(x, [0, 1, 2, 0], [1, 2, 2, 3]), [(1, 4, 5, 3)]),
    "strided_slice": lambda n: convert(n, lambda x: x[:, 1:-1:2, ::3, -2], [(1, 7, 8, 3)]),
    "batch_matmul": lambda n: convert(n, lambda a, b: tf.matmul(a, b), [(1, 2, 5, 7), (1, 2, 7, 3)]),
    "batch_matmul_turned": lambda n: convert(n, lambda a, b: tf.matmul(a, b, transpose_b=True), [(2, 5, 7), (2, 3, 7)]),
    "float_edges": lambda n: convert(n, small_conv, [(1, 6, 5, 2)], float_edges=True),
}


only = sys.argv[2:]
for name, make in MODELS.items():
    RANDOM = np.random.default_rng(list(name.encode()))
    if only and name not in only:
        continue
    try:
        model = make(name)
        if name in ("small_conv", "dense", "add"):
            older({"small_conv": "conv_uint8", "dense": "dense_uint8", "add": "add_uint8"}[name], model)
    except Exception as e:
        print(name, "FAILED", str(e)[:600])
