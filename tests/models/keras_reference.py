"""The simplified MobileNetV3-Small as tutorials write it: in Keras, and in numpy.

Both are written from the layers alone and share nothing with weebill.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BLOCKS = (
    (24, 2),
    (24, 1),
    (40, 2),
    (40, 1),
    (40, 1),
    (48, 1),
    (48, 1),
    (96, 2),
    (96, 1),
    (96, 1),
)


def build(tf: Any, input_shape: tuple[int, int, int], num_classes: int) -> Any:
    """The Keras model."""
    layers = tf.keras.layers

    def conv(x: Any, channels: int, size: int = 1, stride: int = 1, act: str = "relu") -> Any:
        return layers.Conv2D(channels, size, strides=stride, padding="same", activation=act)(x)

    def depthwise(x: Any, stride: int) -> Any:
        return layers.DepthwiseConv2D(3, strides=stride, padding="same", activation="relu")(x)

    inputs = tf.keras.Input(shape=input_shape)
    x = conv(inputs, 16, 3, 2)
    x = depthwise(x, 1)
    x = conv(x, 16)
    for out, stride in BLOCKS:
        source, channels = x, x.shape[-1]
        x = depthwise(conv(x, 6 * channels), stride)
        gate = layers.GlobalAveragePooling2D()(x)
        gate = layers.Dense(6 * channels // 4, activation="relu")(gate)
        gate = layers.Dense(6 * channels, activation="sigmoid")(gate)
        x = layers.Multiply()([x, layers.Reshape((1, 1, 6 * channels))(gate)])
        x = conv(x, out, act="linear")
        if stride == 1 and channels == out:
            x = layers.Add()([source, x])
    x = conv(x, 576)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Reshape((1, 1, 576))(x)
    x = conv(x, 1280)
    x = conv(x, num_classes, act="softmax")
    return tf.keras.Model(inputs, layers.Flatten()(x))


def random_weights(channels: int, num_classes: int, seed: int) -> list[NDArray[np.float32]]:
    """What `get_weights()` of the model gives, with values that keep activations near 1."""
    random = np.random.default_rng(seed)
    found: list[NDArray[np.float32]] = []

    def add(*shape: int, fan_in: int, outputs: int, gain: float = 2.0) -> None:
        for part, deviation in ((shape, (gain / fan_in) ** 0.5), ((outputs,), 0.1)):
            found.append(np.asarray(random.normal(0, deviation, part), np.float32))

    def add_conv(inputs: int, outputs: int, size: int = 1, gain: float = 2.0) -> None:
        fan_in = size * size * inputs
        add(size, size, inputs, outputs, fan_in=fan_in, outputs=outputs, gain=gain)

    def add_depthwise(inputs: int) -> None:
        add(3, 3, inputs, 1, fan_in=9, outputs=inputs)

    add_conv(channels, 16, 3)
    add_depthwise(16)
    add_conv(16, 16)
    channels = 16
    for out, _ in BLOCKS:
        expanded = 6 * channels
        add_conv(channels, expanded)
        add_depthwise(expanded)
        add(expanded, expanded // 4, fan_in=expanded, outputs=expanded // 4)
        add(expanded // 4, expanded, fan_in=expanded // 4, outputs=expanded)
        add_conv(expanded, out, gain=4.0)
        channels = out
    add_conv(channels, 576)
    add_conv(576, 1280)
    add_conv(1280, num_classes)
    return found


def forward(weights: list[NDArray[np.float32]], image: NDArray[Any]) -> Array:
    """The probabilities for one image (H, W, C), in float64."""
    queue = [w.astype(np.float64) for w in weights]

    def take() -> tuple[Array, Array]:
        return queue.pop(0), queue.pop(0)

    def padded(x: Array, stride: int) -> Array:
        """SAME for a window of 3."""
        pads = []
        for size in x.shape[:2]:
            total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
            pads.append((total // 2, total - total // 2))
        return np.pad(x, (*pads, (0, 0)))

    def windows(x: Array, stride: int) -> Array:
        """(H', W', C, 3, 3)."""
        view = np.lib.stride_tricks.sliding_window_view(padded(x, stride), (3, 3), axis=(0, 1))
        strided: Array = view[::stride, ::stride]
        return strided

    def relu(x: Array) -> Array:
        return np.maximum(x, 0)

    def pointwise(x: Array) -> Array:
        kernel, bias = take()
        return x @ kernel.reshape(kernel.shape[-2:]) + bias

    def depthwise(x: Array, stride: int) -> Array:
        kernel, bias = take()
        sums: Array = np.einsum("hwcij,ijc->hwc", windows(x, stride), kernel[..., 0])
        return sums + bias

    kernel, bias = take()
    x = relu(np.einsum("hwcij,ijco->hwo", windows(image.astype(np.float64), 2), kernel) + bias)
    x = relu(depthwise(x, 1))
    x = relu(pointwise(x))
    for out, stride in BLOCKS:
        source = x
        x = relu(depthwise(relu(pointwise(x)), stride))
        gate = pointwise(relu(pointwise(x.mean((0, 1)))))
        x = pointwise(x / (1 + np.exp(-gate)))
        if stride == 1 and source.shape[-1] == out:
            x = x + source
    x = relu(pointwise(x)).mean((0, 1))
    logits = pointwise(relu(pointwise(x)))
    assert not queue
    e = np.exp(logits - logits.max())
    return np.asarray(e / e.sum())
