"""Writes one network in all its forms into a directory: `python generate.py NAME DIRECTORY` inside the venv.

    NAME_f32.{tflite,onnx}    float
    NAME_int8.{tflite,onnx}   TFLite's full-integer quantization, and the same numbers as QDQ ONNX
    NAME_u8s8_qdq.onnx, …     what onnxruntime's own quantizer makes of the float ONNX, where the zoo asks for it

Beside each a `*.golden.npz`: `x` random inputs, `onnxruntime` and, where there is such a file, `tflite` their outputs.
`NAME.json` is written last and says that all files are there: multiply-accumulates, what did not convert and why.
"""
import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import tensorflow as tf  # noqa: E402
import tf2onnx  # noqa: E402
from onnxruntime.quantization import (CalibrationDataReader, QuantFormat, QuantType,  # noqa: E402
                                      quantize_dynamic, quantize_static)
from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: E402
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2  # noqa: E402

import golden  # noqa: E402
import macs  # noqa: E402
import nets  # noqa: E402

SEED = 20260805
# The forms of onnxruntime's quantizer: activations, weights, and operators of integers or pairs around those of floats.
UNSIGNED, SIGNED = QuantType.QUInt8, QuantType.QInt8
QUANTIZER = {
    "u8s8_qdq": (UNSIGNED, SIGNED, QuantFormat.QDQ),
    "s8s8_qdq": (SIGNED, SIGNED, QuantFormat.QDQ),
    "qoperator": (UNSIGNED, SIGNED, QuantFormat.QOperator),
    "u8u8_qoperator": (UNSIGNED, UNSIGNED, QuantFormat.QOperator),
}
FORMS = {
    "mobilenetv2": ["u8s8_qdq", "s8s8_qdq", "qoperator", "u8u8_qoperator"],
    "resnet50": ["u8s8_qdq", "s8s8_qdq", "qoperator"],
    "detector": ["u8s8_qdq"],
    "encoder": ["u8s8_qdq", "s8s8_qdq", "qoperator", "dynamic"],
}


def samples(shape, count, rng):
    """Random images with coarse shapes and fine noise (pure noise would look alike to every network), or tokens."""
    if len(shape) != 3:
        return rng.standard_normal((count, *shape)).astype(np.float32)
    coarse = rng.standard_normal((count, 8, 8, shape[2])).astype(np.float32)
    cell = -(-shape[0] // 8)
    large = coarse.repeat(cell, 1).repeat(cell, 2)[:, : shape[0], : shape[1]]
    return np.clip(0.6 * large + 0.3 * rng.standard_normal((count, *shape)), -2, 2).astype(np.float32)


def draw_weights(model, rng, mean):
    """He's initialization, then batch normalization from the statistics of random samples, slightly disturbed."""
    for layer in model.layers:
        drawn = []
        for weight in layer.weights:
            if weight.name in ("kernel", "depthwise_kernel"):
                depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
                inputs = np.prod(weight.shape[:2] if depthwise else weight.shape[:-1])
                gain = 6 if layer.name in nets.SCORES else 1
                drawn.append(rng.standard_normal(weight.shape) * np.sqrt(2 / inputs) * gain)
            elif weight.name == "gamma":
                drawn.append(rng.uniform(0.6, 1.4, weight.shape))
            elif weight.name in ("beta", "bias"):
                drawn.append(rng.normal(mean if weight.name == "beta" else 0, 0.2, weight.shape))
            else:
                drawn.append(weight.numpy())
        layer.set_weights(drawn)
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(samples(model.input_shape[1:], 8, rng), training=True)


def to_tflite(model, path, calibration=None):
    """The model with a batch of one; with samples to calibrate on, in integers from input to output."""
    call = tf.function(lambda x: model(x, training=False))
    spec = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name="input")
    frozen = convert_variables_to_constants_v2(call.get_concrete_function(spec))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([x[None]] for x in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())


def gelu(graph, node, name, args):
    """x · (1 + erf(x / √2)) / 2, as exporters write it: tf2onnx does not know TFLite's own operator."""
    x, shape, dtype = node.input[0], graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    constant = lambda value: graph.make_const(tf2onnx.utils.make_name("gelu"), np.float32(value)).output[0]
    graph.remove_node(node.name)
    scaled = graph.make_node("Div", [x, constant(np.sqrt(2))]).output[0]
    erf = graph.make_node("Add", [graph.make_node("Erf", [scaled]).output[0], constant(1)]).output[0]
    product = graph.make_node("Mul", [x, erf]).output[0]
    return graph.make_node("Mul", [product, constant(0.5)], name=name, outputs=node.output, shapes=[shape],
                           dtypes=[dtype])


HANDLERS = {"TFL_GELU": (gelu, [])}


class Samples(CalibrationDataReader):
    """The calibration samples, one by one, as onnxruntime's quantizer asks for them."""

    def __init__(self, name, calibration):
        self.left = iter([{name: x[None]} for x in calibration])

    def get_next(self):
        return next(self.left, None)


def quantize(source, path, form, calibration):
    """The float ONNX through onnxruntime's quantizer, weights per channel; `dynamic` needs no calibration."""
    name = onnx.load(source).graph.input[0].name
    with tempfile.TemporaryDirectory() as scratch:
        folded = pathlib.Path(scratch) / "folded.onnx"
        quant_pre_process(source, folded, skip_symbolic_shape=True)
        if form == "dynamic":
            return quantize_dynamic(folded, path, per_channel=True, weight_type=SIGNED)
        activations, weights, quant_format = QUANTIZER[form]
        quantize_static(folded, path, Samples(name, calibration), quant_format=quant_format, per_channel=True,
                        activation_type=activations, weight_type=weights)


def generate(name, directory):
    # What was made of an earlier draw, in whatever form, would not belong to this one.
    for left in directory.glob(f"{name}_*"):
        left.unlink()
    rng = np.random.default_rng(SEED)
    keras.utils.set_random_seed(SEED)
    model = nets.NETS[name]()
    draw_weights(model, rng, 0.8 if name in nets.CHAINS else 0)
    shape = model.input_shape[1:]
    calibration, inputs = samples(shape, 16, rng), samples(shape, 8, rng)
    failed, files = {}, []

    def attempt(stem, make):
        try:
            make()
            golden.write(directory, stem, inputs)
            files.append(stem)
            print(f"{stem}: written", flush=True)
        except Exception as why:  # a converter's failure belongs in the table, whatever its kind
            failed[stem] = f"{type(why).__name__}: {why}".splitlines()[0][:300]
            for left in directory.glob(f"{stem}.*"):
                left.unlink()
            print(f"{stem}: {failed[stem]}", flush=True)

    def through_tflite(stem, samples=None):
        to_tflite(model, directory / f"{stem}.tflite", samples)
        tf2onnx.convert.from_tflite(str(directory / f"{stem}.tflite"), opset=13, custom_op_handlers=HANDLERS,
                                    output_path=str(directory / f"{stem}.onnx"))

    attempt(f"{name}_int8", lambda: through_tflite(f"{name}_int8", calibration))
    attempt(f"{name}_f32", lambda: through_tflite(f"{name}_f32"))
    for form in FORMS.get(name, []):
        attempt(f"{name}_{form}", lambda: quantize(directory / f"{name}_f32.onnx", directory / f"{name}_{form}.onnx",
                                                   form, calibration))
    facts = {"files": files, "failed": failed, "macs": macs.multiply_accumulates(directory / f"{name}_f32.onnx"),
             "input": list(shape), "parameters": model.count_params()}
    (directory / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    generate(sys.argv[1], pathlib.Path(sys.argv[2]))
