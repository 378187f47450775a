"""The pictures of the digits example: the scans, how they are drawn as images, and how images become tensors."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 20240817
SIZE = 32  # pixels of an image's side
INPUT = 16  # pixels of the model input's side


@dataclass(frozen=True)
class Split:
    """Some of the scans: their numbers in scikit-learn's set, their 8x8 values from 0 to 16, and what they show."""

    ids: np.ndarray
    scans: np.ndarray
    labels: np.ndarray


def load_splits():
    """60 % training, 10 % validation, 30 % test; each with the same share of every digit, in shuffled order."""
    digits = load_digits()
    everything = np.arange(len(digits.target))

    def part(ids, size):
        return train_test_split(ids, test_size=size, random_state=SEED, stratify=digits.target[ids])

    rest, test = part(everything, 540)
    train, validation = part(rest, 179)
    return tuple(Split(ids, digits.images[ids], digits.target[ids]) for ids in (train, validation, test))


# --- drawing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Camera:
    """What a simulated camera does to a scan. Pairs are ranges that every picture draws its own value from."""

    rotation: float  # degrees, to either side
    shift: float  # pixels, to either side
    scale: tuple  # size of the digit, 1 is as large as in the scan
    gain: tuple  # exposure: how much of the range above black the digit uses
    black: tuple  # level of the background, 0 to 255
    vignette: tuple  # share of the light lost in the corners
    blur: tuple  # weight of each neighbour in a 3-tap blur
    noise: tuple  # standard deviation of the sensor noise, in levels


# The camera over the conveyor. The test images of the example are drawn with it.
FIELD = Camera(
    rotation=10.0, shift=1.5, scale=(0.85, 1.0), gain=(0.3, 0.9), black=(10.0, 90.0),
    vignette=(0.05, 0.2), blur=(0.05, 0.25), noise=(1.0, 4.0),
)  # fmt: skip
# A guess at that camera from somebody who has not seen it: better lit, straighter, less noise.
MILD = Camera(
    rotation=5.0, shift=1.0, scale=(0.9, 1.0), gain=(0.5, 1.0), black=(0.0, 50.0),
    vignette=(0.0, 0.1), blur=(0.0, 0.2), noise=(0.0, 2.0),
)  # fmt: skip


def enlarge(scan):
    """Values from 0 to 16 -> four times as many pixels each way, floats from 0 to 255."""
    image = Image.fromarray((scan / 16.0 * 255.0).astype(np.float32))
    large = image.resize((image.width * 4, image.height * 4), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(large), 0.0, 255.0)


def to_bytes(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def scanner_image(scan):
    """The clean image: what a flatbed scanner gives, over the full range from 0 to 255."""
    return to_bytes(enlarge(scan))


def camera_image(scan, camera, rng):
    """The same scan as the camera sees it."""
    ink = move(scan, camera, rng) / 255.0
    gain, black = rng.uniform(*camera.gain), rng.uniform(*camera.black)
    light = black + gain * (255.0 - black) * ink
    # Light falls off with the square of the distance from the middle; 1 in the corners.
    axis = np.linspace(-1.0, 1.0, SIZE)
    distance2 = (axis[:, None] ** 2 + axis[None, :] ** 2) / 2.0
    light = light * (1.0 - rng.uniform(*camera.vignette) * distance2)
    light = blur(light, rng.uniform(*camera.blur))
    return to_bytes(light + rng.normal(0.0, rng.uniform(*camera.noise), light.shape))


def move(scan, camera, rng):
    """Enlarges a scan and turns, scales and shifts it about its middle."""
    # With empty paper around it, because the digits reach up to the edges of the scans.
    paper = enlarge(np.pad(scan, 2)).astype(np.float32)
    angle = np.deg2rad(rng.uniform(-camera.rotation, camera.rotation))
    scale = rng.uniform(*camera.scale)
    shift = rng.uniform(-camera.shift, camera.shift, 2)
    # Pillow wants the inverse: for a pixel of the result, where it is in the source.
    inverse = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    offset = len(paper) / 2.0 - inverse @ (SIZE / 2.0 + shift)
    to_source = (*inverse[0], offset[0], *inverse[1], offset[1])
    moved = Image.fromarray(paper).transform(
        (SIZE, SIZE), Image.Transform.AFFINE, to_source, Image.Resampling.BICUBIC, fillcolor=0
    )
    return np.clip(np.asarray(moved), 0.0, 255.0)


def blur(image, weight):
    for axis in (0, 1):
        edges = np.pad(image, [(1, 1) if i == axis else (0, 0) for i in (0, 1)], mode="edge")
        before, after = np.take(edges, range(SIZE), axis), np.take(edges, range(2, SIZE + 2), axis)
        image = (1.0 - 2.0 * weight) * image + weight * (before + after)
    return image


def draw(split, cameras, stream, copies=1):
    """Draws every scan of a split `copies` times and returns the images with their labels.

    `cameras` lists (share, camera) pairs, camera None being the scanner. Every image has its own random numbers, which
    follow from the seed, `stream`, the scan and the copy, so that no image depends on how many are drawn before it.
    """
    shares = np.cumsum([share for share, _ in cameras])
    images = []
    for copy in range(copies):
        for number, scan in zip(split.ids, split.scans):
            rng = np.random.default_rng([SEED, stream, int(number), copy])
            camera = cameras[int(np.searchsorted(shares, rng.uniform(0.0, shares[-1]), side="right"))][1]
            images.append(camera_image(scan, camera, rng) if camera else scanner_image(scan))
    return images, np.tile(split.labels, copies)


# --- files and tensors ---------------------------------------------------------------------------------------------


def to_png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", optimize=True)
    return file.getvalue()


def from_png(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "L" and image.size == (SIZE, SIZE), (image.mode, image.size)
        return np.asarray(image)


def preprocess(image, levels):
    """The preprocessing of the bundles, the same as image.wasm with the config in bundle.toml.

    8-bit gray 32x32 -> mean of every 2x2 pixels -> levels -> float32 [1, 1, 16, 16].
    """
    values = image.astype(np.float32).reshape(INPUT, 2, INPUT, 2).mean(axis=(1, 3), dtype=np.float32)
    if levels == "fixed":
        values = values / np.float32(255.0)
    else:
        low, high = values.min(), values.max()
        # Less than one level of contrast is a flat image.
        values = np.zeros_like(values) if high - low < 1.0 else (values - low) / (high - low)
    return values.reshape(1, 1, INPUT, INPUT)


def tensors(images, levels):
    """One tensor for many images, [count, 1, 16, 16]."""
    return np.concatenate([preprocess(image, levels) for image in images])
