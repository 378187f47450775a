#!/usr/bin/env python3
"""Trains the three versions of the digits example and writes everything that their bundles are made from.

    python train.py          # trains, writes v1/ v2/ v3/ images/ and accuracy.json
    python train.py --check  # only measures the files that are there; fails when accuracy.json says something else

README.md says what the versions are. Two runs on one machine write the same bytes.
"""

import argparse
import csv
import json
import math
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from images import FIELD, INPUT, MILD, SEED, draw, from_png, load_splits, scanner_image, tensors, to_png

HERE = Path(__file__).resolve().parent
FIELD_DIR = HERE / "images" / "field"
ACCURACY = HERE / "accuracy.json"
# Random streams, one for each set of drawn images; see images.draw.
TRAINING, REFERENCE, VALIDATION, TEST = range(4)
# How far an image's accuracy may be off on another machine, where the last bits of floats differ: 2 of 540 images.
TOLERANCE = 0.004
# Lead of the right logit over the next one that a golden sample has in every version.
GOLDEN_MARGIN = 2.0


@dataclass(frozen=True)
class Version:
    """One version of the model: what it is trained on and how it reads brightness. The network is always the same."""

    dir: str
    number: str
    description: str
    dataset: str
    levels: str  # see images.preprocess
    cameras: tuple  # what its training images are drawn with, as (share, camera); None is the scanner
    copies: int  # images drawn of every training scan
    epochs: int


VERSIONS = (
    Version(
        dir="v1",
        number="1.0.0",
        description="Handwritten digits, 16x16 gray, int8",
        dataset="UCI optical digits, training split, scanner images and a mild camera simulation",
        levels="stretch",
        cameras=((0.2, None), (0.8, MILD)),
        copies=4,
        epochs=40,
    ),
    Version(
        dir="v2",
        number="1.1.0",
        description="Handwritten digits, 16x16 gray, int8; trained on images of the conveyor camera",
        dataset="UCI optical digits, training split, field camera simulation and some scanner images",
        levels="stretch",
        cameras=((0.1, None), (0.9, FIELD)),
        copies=20,
        epochs=32,
    ),
    # The mistake of this version is an easy one to make: on the images it was developed with, full-range scans, fixed
    # levels are as good as stretched ones, and every check that uses such images passes.
    Version(
        dir="v3",
        number="1.2.0",
        description="Handwritten digits, 16x16 gray, int8; levels normalised by the scanner's full range",
        dataset="UCI optical digits, training split, scanner images",
        levels="fixed",
        cameras=((1.0, None),),
        copies=1,
        epochs=150,
    ),
)

BUNDLE = """\
# Written by train.py.
schema = "sedge.bundle/1"

[bundle]
name = "digits"
version = "{number}"
license = "Apache-2.0 OR MIT"
description = "{description}"

[[variant]]
name = "int8"
file = "model.int8.onnx"
format = "onnx"

[[input]]
name = "image"
dtype = "float32"
shape = [1, 1, 16, 16]

[[output]]
name = "logits"
dtype = "float32"
shape = [1, 10]

[confidence]
output = "logits"
kind = "logits"

[preprocessor]
component = "image.wasm"

[preprocessor.config]
color = "gray"
layout = "nchw"
resize = "area"
fit = "stretch"
levels = "{levels}"

[postprocessor]
component = "classify.wasm"

[postprocessor.config]
top_k = 3

[labels]
file = "labels.txt"

[limits]
memory_mib = 64
sandbox_ms = 250
latency_p95_ms = {{ default = 50.0 }}

# One clean scan of every digit and two more. The logits come in steps of {step:.4f}, the scale that int8 gives them.
# Three steps are allowed (atol): engines round differently inside, and one step inside can become a few at the end.

{golden}[reference]
file = "reference.json"

# Where `sedge bundle build` finds the files that live outside this directory.
[sources]
"image.wasm" = "../../../runtime/processors/image/image.wasm"
"classify.wasm" = "../../../runtime/processors/classify/classify.wasm"
"""

GOLDEN = """\
[[golden]]
input = "golden/{i}.png"
label = "{label}"
atol = {atol}
expect = {{ logits = "golden/{i}.logits.npy" }}

"""


# --- training and export -------------------------------------------------------------------------------------------


def import_tensorflow():
    """TensorFlow, set up so that every run computes the same. Slow to load, and --check does not need it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # oneDNN takes other instructions on other processors, and rounds differently with them.
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    return tf


def build_network(tf):
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [
            layers.Input((INPUT, INPUT, 1), name="image"),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="conv2"),
            layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depthwise"),
            layers.Conv2D(48, 1, activation="relu", name="pointwise"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(10, name="dense"),
        ]
    )


def train(tf, version, split):
    """Trains the network of a version from scratch."""
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(SEED)  # of Python, NumPy and TensorFlow
    images, labels = draw(split, version.cameras, TRAINING, version.copies)
    inputs = tensors(images, version.levels).transpose(0, 2, 3, 1)
    steps = version.epochs * math.ceil(len(inputs) / 32)
    network = build_network(tf)
    network.compile(
        optimizer=tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        # A little smoothing keeps the logits small, which leaves int8 more steps for those that matter.
        loss=tf.keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.05),
    )
    targets = tf.keras.utils.to_categorical(labels, 10)
    network.fit(inputs, targets, batch_size=32, epochs=version.epochs, shuffle=True, verbose=0)
    return network


def export_float(tf, network, path):
    """Writes the network as ONNX, [1, 1, 16, 16] `image` to [1, 10] `logits`."""
    import tf2onnx

    signature = [tf.TensorSpec((1, INPUT, INPUT, 1), tf.float32, name="image")]

    @tf.function(input_signature=signature)
    def logits(image):
        return {"logits": network(image, training=False)}

    model, _ = tf2onnx.convert.from_function(
        logits, input_signature=signature, opset=13, inputs_as_nchw=["image"], output_path=str(path)
    )
    names = [value.name for value in (*model.graph.input, *model.graph.output)]
    assert names == ["image", "logits"], names


# The layers as they are in the graph, with the operators that each becomes.
GRAPH = (
    ("conv1", ("Conv", "Relu")),
    ("conv2", ("Conv", "Relu")),
    ("depthwise", ("Conv", "Relu")),
    ("pointwise", ("Conv", "Relu")),
    ("pool", ("GlobalAveragePool",)),
    ("flat", ("Reshape",)),
    ("dense", ("Gemm",)),
)


def tidy(model):
    """The same graph with short names and nothing that is not needed.

    The converter puts a Reshape in front that changes nothing, and numbers its names differently in every run.
    """
    values = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    old = list(model.graph.node)
    if old[0].op_type == "Reshape" and values[old[0].input[1]].tolist() == [1, 1, INPUT, INPUT]:
        del old[0]
    wanted = [(layer, op) for layer, ops in GRAPH for op in ops]
    found = ["Reshape" if node.op_type == "Squeeze" else node.op_type for node in old]
    assert found == [op for _, op in wanted], f"the converter now makes {found}"
    nodes, weights, last = [], [], "image"
    for node, (layer, op) in zip(old, wanted):
        output = f"{layer}.{op.lower()}" if node is not old[-1] else "logits"
        constants = {f"{layer}.{role}": values[name] for role, name in zip(("weight", "bias"), node.input[1:])}
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if op == "Reshape":
            constants, attributes = {f"{layer}.shape": np.array([1, values[old[-1].input[1]].shape[0]])}, {}
        elif op == "Conv":
            attributes.setdefault("pads", [0, 0, 0, 0])
        weights += [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
        nodes.append(onnx.helper.make_node(op, [last, *constants], [output], name=output, **attributes))
        last = output
    graph = onnx.helper.make_graph(nodes, "digits", model.graph.input, model.graph.output, weights)
    opsets = [onnx.helper.make_opsetid("", 13)]
    result = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=7, producer_name="examples/digits")
    result.metadata_props.extend(model.metadata_props)
    onnx.checker.check_model(result, full_check=True)
    return onnx.shape_inference.infer_shapes(result)


def quantize(source, target, calibration):
    """int8 weights and activations, with the ranges that the calibration tensors have."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rest = iter(calibration)

        def get_next(self):
            image = next(self.rest, None)
            return None if image is None else {"image": image[None]}

    prepared = source.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    onnx.save(tidy(onnx.load(prepared)), prepared)
    quantize_static(
        str(prepared), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


# --- measuring -----------------------------------------------------------------------------------------------------


def open_model(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session, inputs):
    """Logits of many inputs; one call each, as the model takes one image at a time."""
    return np.concatenate([session.run(["logits"], {"image": image[None]})[0] for image in inputs])


def softmax(logits):
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def accuracy(path, images, labels, levels):
    predicted = run(open_model(path), tensors(images, levels)).argmax(axis=1)
    return round(float((predicted == labels).mean()), 4)


def count_parameters(path):
    """Weights and biases of a quantized model; scales and zero points are no parameters."""
    weights = [w for w in onnx.load(path).graph.initializer if w.name.endswith("_quantized")]
    return sum(math.prod(w.dims) for w in weights)


def output_step(path):
    """The scale of the logits' quantization: the smallest difference that two logits can have."""
    graph = onnx.load(path).graph
    last = next(node for node in graph.node if "logits" in node.output)
    assert last.op_type == "DequantizeLinear", last.op_type
    return float(next(onnx.numpy_helper.to_array(w) for w in graph.initializer if w.name == last.input[1]))


def measure(version, int8, float_model, test, field):
    """The line of accuracy.json for one version. `float_model` is None when there is no float model any more."""
    sets = {
        # Through PNG as well, so that both sets take the same way.
        "clean": ([from_png(to_png(scanner_image(scan))) for scan in test.scans], test.labels),
        "field": field,
    }
    models = {"float": float_model, "int8": int8} if float_model else {"int8": int8}
    line = {"version": version.number, "parameters": count_parameters(int8), "model_bytes": int8.stat().st_size}
    for name, (images, labels) in sets.items():
        line[name] = {kind: accuracy(path, images, labels, version.levels) for kind, path in models.items()}
    return line


def print_table(lines):
    def percent(line, images, kind):
        value = line[images].get(kind)
        return f"{'-' if value is None else f'{value:.2%}':>12}"

    columns = [(images, kind) for images in ("clean", "field") for kind in ("float", "int8")]
    print("version" + "".join(f"{' '.join(column):>12}" for column in columns) + "  parameters  model bytes")
    for line in lines:
        cells = "".join(percent(line, *column) for column in columns)
        print(f"{line['version']:7}{cells}{line['parameters']:12}{line['model_bytes']:13}")


# --- files of a bundle ---------------------------------------------------------------------------------------------


def significant(values):
    return [float(f"{value:.6g}") for value in values]


def histogram(values, edges):
    """Counts per bin; a value x is in bin i when edges[i - 1] <= x < edges[i]."""
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).tolist()


def equal_frequency(values, bins=20):
    """Inner edges with about as many values between any two, and the counts. Fewer bins when edges fall together."""
    edges = sorted(set(significant(np.quantile(values, np.arange(1, bins) / bins))))
    return {"edges": edges, "counts": histogram(values, edges)}


def reference(version, int8, train_split, validation):
    """What the model sees and says when all is well; what runs in the field is compared with it."""
    session = open_model(int8)
    inputs = tensors(draw(train_split, version.cameras, REFERENCE)[0], version.levels)
    logits = run(session, inputs).astype(np.float64)
    top = logits.max(axis=1)
    energy = -(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)))
    tenths = [i / 10 for i in range(1, 10)]
    pixels = inputs.reshape(len(inputs), -1).astype(np.float64)

    # Whether the confidence is right is not for the images to say that the model was trained on.
    images, labels = draw(validation, version.cameras, VALIDATION)
    chances = softmax(run(session, tensors(images, version.levels)))
    right = chances.argmax(axis=1) == labels
    return {
        "schema": "sedge.reference/1",
        "dataset": version.dataset,
        "rows": len(inputs),
        "features": [
            {"name": "image.mean", **equal_frequency(pixels.mean(axis=1))},
            {"name": "image.std", **equal_frequency(pixels.std(axis=1))},
        ],
        "classes": [
            {"label": str(i), "count": int(count)}
            for i, count in enumerate(np.bincount(logits.argmax(axis=1), minlength=10))
        ],
        "confidence": {"edges": tenths, "counts": histogram(softmax(logits).max(axis=1), tenths)},
        "energy": equal_frequency(energy),
        "calibration": {
            "edges": tenths,
            "correct": histogram(chances.max(axis=1)[right], tenths),
            "total": histogram(chances.max(axis=1), tenths),
        },
    }


def choose_golden(models, validation):
    """Positions in the validation split of 12 scans that every version is sure about: each digit, and two more."""
    images = [scanner_image(scan) for scan in validation.scans]
    rows = np.arange(len(images))
    sure = np.ones(len(images), bool)
    for version in VERSIONS:
        logits = run(open_model(models[version.dir]), tensors(images, version.levels))
        right = logits[rows, validation.labels].copy()
        logits[rows, validation.labels] = -np.inf
        sure &= right - logits.max(axis=1) >= GOLDEN_MARGIN
    digits = [int(rows[sure & (validation.labels == digit)][0]) for digit in range(10)]
    return digits + [int(row) for row in rows[sure] if row not in digits][:2]


def write_text(path, text):
    path.write_text(text, encoding="utf-8", newline="\n")


def write_json(path, value):
    """JSON with one line for each entry of the outer two levels, so that differences are easy to read."""

    def lines(value, depth):
        if depth == 0 or not isinstance(value, (dict, list)):
            return json.dumps(value)
        space, end = "\n" + "  " * (3 - depth), "\n" + "  " * (2 - depth)
        if isinstance(value, dict):
            items = [f"{json.dumps(key)}: {lines(item, depth - 1)}" for key, item in value.items()]
            return "{" + space + ("," + space).join(items) + end + "}"
        return "[" + space + ("," + space).join(lines(item, depth - 1) for item in value) + end + "]"

    write_text(path, lines(value, 2) + "\n")


def write_version(version, int8, golden, validation, reference_values):
    """Writes everything in the directory of a version."""
    target = HERE / version.dir
    shutil.rmtree(target, ignore_errors=True)
    (target / "golden").mkdir(parents=True)
    shutil.copyfile(int8, target / "model.int8.onnx")
    write_text(target / "labels.txt", "".join(f"{digit}\n" for digit in range(10)))
    write_json(target / "reference.json", reference_values)
    session, step, samples = open_model(int8), output_step(int8), ""
    for i, row in enumerate(golden):
        png = to_png(scanner_image(validation.scans[row]))
        (target / "golden" / f"{i}.png").write_bytes(png)
        logits = run(session, tensors([from_png(png)], version.levels))
        np.save(target / "golden" / f"{i}.logits.npy", np.ascontiguousarray(logits, np.float32))
        samples += GOLDEN.format(i=i, label=validation.labels[row], atol=math.ceil(step * 300) / 100)
    values = {"number": version.number, "description": version.description, "levels": version.levels}
    write_text(target / "bundle.toml", BUNDLE.format(**values, step=step, golden=samples))


def write_field(test):
    """Draws every test scan once with the field camera, as numbered PNG files and a list of what they show."""
    shutil.rmtree(FIELD_DIR, ignore_errors=True)
    FIELD_DIR.mkdir(parents=True)
    images, labels = draw(test, ((1.0, FIELD),), TEST)
    for i, image in enumerate(images):
        (FIELD_DIR / f"{i:04}.png").write_bytes(to_png(image))
    rows = "".join(f"{i:04}.png,{label}\n" for i, label in enumerate(labels))
    write_text(FIELD_DIR / "labels.csv", "file,label\n" + rows)


def read_field():
    with open(FIELD_DIR / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    images = [from_png((FIELD_DIR / row["file"]).read_bytes()) for row in rows]
    return images, np.array([int(row["label"]) for row in rows])


# --- the two commands ----------------------------------------------------------------------------------------------


def generate():
    tf = import_tensorflow()
    train_split, validation, test = load_splits()
    write_field(test)
    field = read_field()
    with tempfile.TemporaryDirectory() as scratch:
        floats = {v.dir: Path(scratch) / f"{v.dir}.onnx" for v in VERSIONS}
        models = {v.dir: Path(scratch) / f"{v.dir}.int8.onnx" for v in VERSIONS}
        for version in VERSIONS:
            print(f"training {version.number}", flush=True)
            export_float(tf, train(tf, version, train_split), floats[version.dir])
            seen = draw(validation, version.cameras, VALIDATION)[0]
            quantize(floats[version.dir], models[version.dir], tensors(seen, version.levels))
        golden = choose_golden(models, validation)
        lines = []
        for version in VERSIONS:
            int8 = models[version.dir]
            values = reference(version, int8, train_split, validation)
            write_version(version, int8, golden, validation, values)
            lines.append(measure(version, HERE / version.dir / "model.int8.onnx", floats[version.dir], test, field))
    write_json(ACCURACY, {"images": len(test.labels), "versions": lines})
    print_table(lines)


def check():
    """Measures the files that are there. Returns what is wrong with them."""
    import tomllib

    expected = json.loads(ACCURACY.read_text(encoding="utf-8"))
    test, field = load_splits()[2], read_field()
    problems, lines = [], []
    if not expected["images"] == len(test.labels) == len(field[0]):
        problems.append(f"{len(field[0])} field images, accuracy.json is about {expected['images']}")
    for version, old in zip(VERSIONS, expected["versions"], strict=True):
        model = HERE / version.dir / "model.int8.onnx"
        new = measure(version, model, None, test, field)
        lines.append(new)
        for key in ("version", "parameters", "model_bytes"):
            if new[key] != old[key]:
                problems.append(f"{version.dir}: {key} is {new[key]}, accuracy.json says {old[key]}")
        for key in ("clean", "field"):
            if abs(new[key]["int8"] - old[key]["int8"]) > TOLERANCE:
                problems.append(f"{version.dir}: {key} is {new[key]['int8']}, accuracy.json says {old[key]['int8']}")
        session = open_model(model)
        for sample in tomllib.loads((HERE / version.dir / "bundle.toml").read_text(encoding="utf-8"))["golden"]:
            image = from_png((HERE / version.dir / sample["input"]).read_bytes())
            logits = run(session, tensors([image], version.levels))
            off = np.abs(logits - np.load(HERE / version.dir / sample["expect"]["logits"])).max()
            if off > sample["atol"] or str(logits.argmax()) != sample["label"]:
                problems.append(f"{version.dir}: {sample['input']} is {logits.argmax()}, its logits are {off:.3f} off")
    print_table(lines)
    return problems


def main():
    parser = argparse.ArgumentParser(description="Trains the digits example, or checks what is there.")
    parser.add_argument("--check", action="store_true", help="only measure the files that are there")
    if not parser.parse_args().check:
        generate()
        return 0
    problems = check()
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
