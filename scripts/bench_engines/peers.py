"""The peers' environment and the generated models, made once and kept under the cache directory."""
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
# One set of versions that was seen to work together. Another set gets an environment of its own beside it.
PINNED = ["onnxruntime==1.32.0", "ai-edge-litert==2.3.0", "tensorflow-cpu==2.21.0", "tf2onnx==1.17.0", "onnx==1.23.2",
          "numpy==2.4.6", "protobuf==7.36.2"]
# What the figures depend on.
VERSIONS = [v for v in PINNED if v.startswith(("onnxruntime", "ai-edge-litert"))] + ["rten==0.27.0"]
# Made in this order: the two that the design sets its bar by come first.
NETWORKS = ["mobilenetv2", "resnet50", "mobilenetv1", "resnet18", "efficientnet_lite0", "detector", "encoder"]


class Missing(Exception):
    """Something that is not here and cannot be made: why, and what to do."""


def cache():
    root = pathlib.Path(os.environ.get("SEDGE_CACHE") or pathlib.Path.home() / ".cache" / "sedge")
    directory = root / "peers"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def exclusive():
    """Two benches must not make the same file at once."""
    with open(cache() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def python(say):
    """The interpreter of the peers' environment, which is made from PyPI if it is not there yet."""
    venv = cache() / "venv"
    interpreter, stamp = venv / "bin" / "python", venv / "pinned"
    if stamp.exists() and stamp.read_text().split() == PINNED:
        return interpreter
    if sys.version_info[:2] != (3, 11):
        raise Missing(f"the peers are pinned for Python 3.11, and this is {sys.version.split()[0]}: use python3.11")
    say(f"making the peers' environment in {venv} (about 1.7 GB)")
    for command in ([sys.executable, "-m", "venv", "--clear", venv],
                    [interpreter, "-m", "pip", "install", "-q", *PINNED]):
        if subprocess.run(command, stdout=sys.stderr).returncode:
            raise Missing(f"the peers' environment was not made: {' '.join(map(str, command))} failed")
    stamp.write_text("\n".join(PINNED))
    return interpreter


def call(interpreter, script, *arguments):
    """What one of the programs beside this one prints, run in the peers' environment."""
    done = subprocess.run([interpreter, "-B", HERE / script, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"{script} {' '.join(map(str, arguments))} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def generated(interpreter, names, say):
    """The directory of the generated models, after making those of `names` that are not there; and their facts."""
    directory = cache() / "models"
    directory.mkdir(exist_ok=True)
    facts = {}
    with exclusive():
        for name in names:
            path = directory / f"{name}.json"
            if not path.exists():
                say(f"generating {name} (a minute or two)")
                call(interpreter, "generate.py", name, directory)
            facts[name] = json.loads(path.read_text())
            for stem, why in facts[name]["failed"].items():
                say(f"skipped: {stem} could not be made: {why}")
    return directory, facts


def unsigned(interpreter, source):
    """The directory and the stem of the form of an int8 model whose activations are uint8, made if it is not there."""
    directory, stem = cache() / "models", source.stem.removesuffix("_int8") + "_u8"
    with exclusive():
        # The golden file is written last.
        if not (directory / f"{stem}.golden.npz").exists():
            call(interpreter, "unsigned.py", source, directory, stem)
    return directory, stem


def macs(interpreter, paths):
    """Multiply-accumulates of each ONNX file."""
    return json.loads(call(interpreter, "macs.py", *paths).splitlines()[-1]) if paths else {}


RTEN_MANIFEST = """[package]
name = "rten-peer"
version = "0.0.0"
edition = "2024"

[[bin]]
name = "rten-peer"
path = "main.rs"

[dependencies]
rten = { version = "=0.27.0", default-features = false, features = ["onnx_format"] }

[workspace]
"""


def rten(say):
    """The program of the rten peer, built from crates.io in a crate of its own if it is not there yet."""
    directory = cache() / "rten"
    program, stamp = directory / "target" / "release" / "rten-peer", directory / "built"
    source = (HERE / "rten_peer.rs").read_text()
    if program.exists() and stamp.exists() and stamp.read_text() == RTEN_MANIFEST + source:
        return program
    if not shutil.which("cargo"):
        raise Missing("the rten peer needs cargo")
    directory.mkdir(exist_ok=True)
    (directory / "Cargo.toml").write_text(RTEN_MANIFEST)
    (directory / "main.rs").write_text(source)
    say("building the rten peer (some minutes)")
    env = {k: v for k, v in os.environ.items() if k not in ("CARGO_TARGET_DIR", "RUSTFLAGS")}
    built = subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=directory, env=env, capture_output=True,
                           text=True)
    if built.returncode:
        raise Missing(f"the rten peer was not built: {built.stderr.strip()[-1000:]}")
    stamp.write_text(RTEN_MANIFEST + source)
    return program
