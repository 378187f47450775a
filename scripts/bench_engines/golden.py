"""The references' outputs for a model's inputs, in the layout of the MLPerf Tiny golden files."""
import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter


def tflite_outputs(path, inputs):
    """Outputs for float samples, which are quantized first if the model wants integers; also the inputs as given."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    given, outputs = [], []
    for x in inputs:
        x = x[None]
        if source["dtype"] == np.int8:
            scale, zero_point = source["quantization"]
            x = np.clip(np.rint(x / scale) + zero_point, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        given.append(x)
        outputs.append(interpreter.get_tensor(sink["index"]))
    return np.stack(given), np.stack(outputs)


def onnx_outputs(path, given):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.stack([session.run(None, {name: x})[0] for x in given])


def write(directory, stem, inputs):
    """`STEM.golden.npz` for the files of that stem; fails when an output is dead (the same for every input)."""
    tflite, arrays = directory / f"{stem}.tflite", {"x": inputs[:, None]}
    if tflite.exists():
        arrays["x"], arrays["tflite"] = tflite_outputs(tflite, inputs)
    arrays["onnxruntime"] = onnx_outputs(directory / f"{stem}.onnx", arrays["x"])
    outputs = arrays["onnxruntime"]
    if (outputs == outputs[0]).all() or not np.isfinite(outputs.astype(np.float64)).all():
        raise ValueError("the outputs do not depend on the input: the random weights are not sane")
    np.savez_compressed(directory / f"{stem}.golden.npz", **arrays)
