"""The generated networks, built in Keras at their real shapes with random weights.

Speed does not depend on what a network knows, but it does depend on activations that stay alive: weights are drawn as
He does, and batch normalization takes the statistics of random images, as it would in training. The converter folds it
into the convolutions.
"""
import keras
import tensorflow as tf
from keras import layers


def conv(x, channels, kernel=1, stride=1, act=None, name=None):
    x = layers.Conv2D(channels, kernel, stride, "same", use_bias=False, name=name)(x)
    x = layers.BatchNormalization()(x)
    return act(x) if act else x


def depthwise(x, kernel, stride, act):
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False)(x)
    return act(layers.BatchNormalization()(x))


def relu(x):
    return layers.ReLU()(x)


def relu6(x):
    return layers.ReLU(6.0)(x)


def silu(x):
    return layers.Multiply()([x, layers.Activation("sigmoid")(x)])


def doubled(x):
    """Each pixel four times. Keras's own layers become a tile or a deprecated mode of ONNX's Resize."""
    size = (2 * x.shape[1], 2 * x.shape[2])
    resize = lambda t: tf.raw_ops.ResizeNearestNeighbor(images=t, size=size)
    return layers.Lambda(resize, output_shape=(*size, x.shape[3]))(x)


def classifier(inputs, x, activation=None):
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(1000, activation, name="scores" if activation else "logits")(x))


def mobilenetv1():
    return keras.applications.MobileNet((224, 224, 3), weights=None)


def mobilenetv2():
    return keras.applications.MobileNetV2((224, 224, 3), weights=None, classifier_activation=None)


def resnet50():
    return keras.applications.ResNet50(weights=None, input_shape=(224, 224, 3), classifier_activation=None)


def resnet18():
    inputs = layers.Input((224, 224, 3))
    x = layers.MaxPooling2D(3, 2, "same")(conv(inputs, 64, 7, 2, relu))
    for channels, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
        for stride in (stride, 1):
            y = conv(conv(x, channels, 3, stride, relu), channels, 3)
            if x.shape != y.shape:
                x = conv(x, channels, 1, stride)
            x = relu(layers.Add()([x, y]))
    return classifier(inputs, x)


def efficientnet_lite0():
    """Without squeeze-and-excitation and with ReLU6, as its authors made it for integer hardware."""
    inputs = layers.Input((224, 224, 3))
    x = conv(inputs, 32, 3, 2, relu6)
    stages = [(1, 16, 3, 1, 1), (6, 24, 3, 2, 2), (6, 40, 5, 2, 2), (6, 80, 3, 2, 3), (6, 112, 5, 1, 3),
              (6, 192, 5, 2, 4), (6, 320, 3, 1, 1)]
    for expansion, channels, kernel, stride, repeats in stages:
        for block in range(repeats):
            y = x if expansion == 1 else conv(x, expansion * x.shape[-1], act=relu6)
            y = conv(depthwise(y, kernel, stride if block == 0 else 1, relu6), channels)
            x = layers.Add()([x, y]) if x.shape == y.shape else y
    return classifier(inputs, conv(x, 1280, act=relu6), "softmax")


def detector():
    """YOLO-shaped: CSP blocks, a pyramid upwards and back down, three heads joined into one (6300, 85) output."""
    inputs = layers.Input((320, 320, 3))

    def csp(x, channels, repeats, shortcut=True):
        half = channels // 2
        y, z = conv(x, half, act=silu), conv(x, half, act=silu)
        for _ in range(repeats):
            w = conv(conv(y, half, act=silu), half, 3, act=silu)
            y = layers.Add()([y, w]) if shortcut else w
        return conv(layers.Concatenate()([y, z]), channels, act=silu)

    x = conv(conv(inputs, 16, 6, 2, silu), 32, 3, 2, silu)
    x = conv(csp(x, 32, 1), 64, 3, 2, silu)
    p3 = csp(x, 64, 2)
    p4 = csp(conv(p3, 128, 3, 2, silu), 128, 3)
    x = conv(csp(conv(p4, 256, 3, 2, silu), 256, 1), 128, act=silu)
    pools = [x]
    for _ in range(3):
        pools.append(layers.MaxPooling2D(5, 1, "same")(pools[-1]))
    p5 = conv(conv(layers.Concatenate()(pools), 256, act=silu), 128, act=silu)
    x = layers.Concatenate()([doubled(p5), p4])
    q4 = conv(csp(x, 128, 1, shortcut=False), 64, act=silu)
    x = layers.Concatenate()([doubled(q4), p3])
    n3 = csp(x, 64, 1, shortcut=False)
    n4 = csp(layers.Concatenate()([conv(n3, 64, 3, 2, silu), q4]), 128, 1, shortcut=False)
    n5 = csp(layers.Concatenate()([conv(n4, 128, 3, 2, silu), p5]), 256, 1, shortcut=False)
    heads = [layers.Reshape((-1, 85))(layers.Conv2D(255, 1)(x)) for x in (n3, n4, n5)]
    return keras.Model(inputs, layers.Activation("sigmoid")(layers.Concatenate(axis=1)(heads)))


def encoder(tokens=128, width=256, heads=4, blocks=3):
    """A transformer encoder over embedded tokens: norm first, GELU in its exact form, mean over tokens, 32 classes."""
    inputs = layers.Input((tokens, width))
    x = inputs
    for _ in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        parts = [layers.Permute((2, 1, 3))(layers.Reshape((tokens, heads, width // heads))(layers.Dense(width)(y)))
                 for _ in range(3)]
        query, key, value = parts
        scores = keras.ops.matmul(query, keras.ops.transpose(key, (0, 1, 3, 2))) * (width // heads) ** -0.5
        y = keras.ops.matmul(layers.Softmax()(scores), value)
        y = layers.Reshape((tokens, width))(layers.Permute((2, 1, 3))(y))
        x = layers.Add()([x, layers.Dense(width)(y)])
        y = layers.LayerNormalization(epsilon=1e-5)(x)
        y = layers.Dense(4 * width)(y)
        y = layers.Dense(width)(layers.Activation("gelu")(y))
        x = layers.Add()([x, y])
    x = keras.ops.mean(layers.LayerNormalization(epsilon=1e-5)(x), axis=1)
    return keras.Model(inputs, layers.Dense(32, name="logits")(x))


# The layers before a softmax over many classes: with random weights nearly all classes would come out alike.
SCORES = ["conv_preds", "scores"]
# Long chains without shortcuts double every rounding error from layer to layer until the outputs say nothing about an
# engine. With a mean above zero most values pass the activations, and errors stay small.
CHAINS = ["mobilenetv1", "detector"]

NETS = {"mobilenetv2": mobilenetv2, "resnet50": resnet50, "mobilenetv1": mobilenetv1, "resnet18": resnet18,
        "efficientnet_lite0": efficientnet_lite0, "detector": detector, "encoder": encoder}
