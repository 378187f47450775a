"""One peer behind the line protocol of `sedge bench --serve`: `python worker.py tflite|onnxruntime MODEL` in the venv.

It loads the model and prints `{"ready": true, "load_ms": …}`. For every line `run SECONDS` it runs the model for that
long and prints the quantiles of the single inferences. It ends with its input.
"""
import gc
import json
import pathlib
import sys
import time

import numpy as np

clock = time.perf_counter_ns
# One inference is timed by two readings of the clock and one call from Python; what an empty call takes is subtracted.
ITERATIONS_MAX = 2_000_000


def status(field):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def random_input(shape, dtype):
    """Values over the whole range of an integer, or of a standardized image; the timing must not meet denormals."""
    rng = np.random.default_rng(1)
    shape = [d if isinstance(d, int) and d > 0 else 1 for d in shape]
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return rng.standard_normal(shape).astype(dtype)


def load_tflite(path):
    from ai_edge_litert.interpreter import Interpreter

    def load():
        interpreter = Interpreter(path, num_threads=1)
        interpreter.allocate_tensors()
        return interpreter

    def ready(interpreter):
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], random_input(detail["shape"].tolist(), detail["dtype"]))
        inner = interpreter._interpreter  # the bound C++ object: `interpreter.invoke` is this and a check
        return inner.Invoke, inner.NumSubgraphs

    return load, ready


def load_onnxruntime(path):
    import onnxruntime
    types = {"tensor(float)": np.float32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8}

    def load():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def ready(session):
        binding = session.io_binding()
        for value in session.get_inputs():
            binding.bind_cpu_input(value.name, random_input(value.shape, types[value.type]))
        for value in session.get_outputs():
            binding.bind_output(value.name)
        run, inner = session._sess.run_with_iobinding, binding._iobinding
        return lambda: run(inner, None), lambda: None

    return load, ready


def times_us(run, seconds):
    """Of as many inferences as fit, at least one, after one that brings the model back into the caches."""
    run()
    times = []
    end = clock() + int(seconds * 1e9)
    while True:
        start = clock()
        run()
        stop = clock()
        times.append(stop - start)
        if stop >= end or len(times) == ITERATIONS_MAX:
            return np.array(times) / 1e3


def main(engine, path):
    load, ready = {"tflite": load_tflite, "onnxruntime": load_onnxruntime}[engine](path)
    # From here on the peak is that of the model; the interpreter and its libraries are the base.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    base = status("VmRSS:")
    start = clock()
    model = load()
    load_ms = (clock() - start) / 1e6
    run, empty = ready(model)
    run()
    # The peak after one inference: what follows is this program's own list of times.
    memory = {"rss_base_bytes": base, "rss_bytes": status("VmRSS:"), "rss_peak_bytes": status("VmHWM:")}
    gc.disable()
    call_us = float(np.median(times_us(empty, 0.02)))
    print(json.dumps({"ready": True, "load_ms": load_ms, "call_us": call_us} | memory), flush=True)
    for line in sys.stdin:
        times = np.maximum(times_us(run, float(line.split()[1])) - call_us, 0)
        p10, median, p90 = np.quantile(times, [0.1, 0.5, 0.9])
        print(json.dumps({"median_us": median, "p10_us": p10, "p90_us": p90, "iterations": len(times)} | memory),
              flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
