"""Random quantizations, weights and limits."""
import numpy as np
from graphs import Node, Quantization, Weights


class Unfit(Exception):
    pass


class Style:
    """How a graph is quantized: types and scales."""

    def __init__(self, random):
        self.random = random
        self.types = [[np.uint8], [np.int8], [np.uint8], [np.int8], [np.uint8, np.int8]][random.integers(5)]
        self.symmetric = random.random() < 0.3
        # Decimal scales and powers of two put many values on ties.
        self.scales = random.choice(["free", "free", "free", "decimal", "power of two"])

    def chance(self, share):
        return self.random.random() < share

    def one_of(self, choices):
        return choices[self.random.integers(len(choices))]

    def scale(self, scale):
        scale = max(float(scale), 1e-4)
        if self.scales == "decimal":
            scale = float(f"{scale:.1g}")
        elif self.scales == "power of two":
            scale = 2.0 ** round(np.log2(scale))
        return np.float32(scale)

    def fit(self, reals):
        """A quantization for values: about their range, or less."""
        low, high = min(float(reals.min()), 0.0), max(float(reals.max()), 0.0)
        share = self.random.uniform(0.6, 1.1)
        of = self.one_of(self.types)
        info = np.iinfo(of)
        if self.symmetric:
            scale = self.scale(max(-low, high) * share / 127)
            return Quantization(of, scale, info.max - 127)
        scale = self.scale((high - low) * share / 255)
        zero_point = int(np.clip(np.rint(info.min - low * share / scale), info.min, info.max))
        return Quantization(of, scale, zero_point)

    def fresh(self):
        """A quantization for an input."""
        of = self.one_of(self.types)
        info = np.iinfo(of)
        near = (info.min + info.max + 1) // 2
        zero_point = near if self.symmetric else int(self.one_of([near, info.min, self.random.integers(info.min, info.max)]))
        return Quantization(of, self.scale(np.exp(self.random.uniform(-4.5, -2.0))), zero_point)

    def weights(self, shape, axis, signed):
        """Weights with output channels along an axis."""
        of = np.int8 if signed or self.chance(0.75) else np.uint8
        values = np.rint(self.random.normal(0, 36, size=shape)).clip(-128, 127)
        if self.chance(0.2):
            values.flat[self.random.integers(values.size)] = -128
        channels = shape[axis]
        count = [] if self.chance(0.4) else [channels]
        scales = np.float32(self.random.uniform(0.004, 0.02, size=count))
        scales = np.vectorize(self.scale, otypes=[np.float32])(scales)
        if of is np.int8:
            zero_point = 0 if count or self.chance(0.85) else int(self.random.integers(-20, 20))
            return Weights(values.astype(np.int8), scales, np.full(count, zero_point, np.int8), axis)
        # With a scale for each channel they all are symmetric; else any zero point will do.
        zero_point = 128 if count or self.chance(0.3) else int(self.random.integers(90, 160))
        values = (values + zero_point).clip(0, 255).astype(np.uint8)
        return Weights(values, scales, np.full(count, zero_point, np.uint8), axis)

    def bias(self, x, weights, channels):
        """Integers in steps of the sums."""
        steps = np.float32(x.of.scale) * weights.scales
        values = self.random.integers(-3000, 3000, size=channels).astype(np.int32)
        return Weights(values, np.float32(steps), np.zeros(np.shape(steps), np.int32), 0)

    def limits(self):
        """A Relu or Clip behind an operator, or nothing; with the constants that it reads."""
        kind = self.random.random()
        if kind < 0.4:
            return [], {}
        if kind < 0.65:
            return [Node("Relu", ["y"])], {}
        high = np.float32(self.one_of([6.0, 1.0, 2.5]))
        low = np.float32(self.one_of([0.0, 0.0, -0.5, 0.25]))
        return [Node("Clip", ["y", "low", "high"])], {"low": low, "high": high}
