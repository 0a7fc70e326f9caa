"""The thesis' own way from a slice to a mask, as plain Keras: four backbones, a stacking network, a
ResUNet.

Weights are random: time does not depend on them. Sources are figures and sections of L. I. Louai,
*Artificial Intelligence in Malignant Brain Tumor Detection* (Tiaret, 2025).
"""

import numpy as np

# Sides of the square colour pictures each backbone takes [3.2].
BACKBONES = {"Xception": 299, "InceptionV3": 299, "ResNet50": 224, "VGG19": 224}
FILTERS = (64, 128, 256, 512, 1024)
CLASSES = 4


def backbone(name: str, size: int | None = None):
    """A network of keras.applications without its top, pooled by maximum, under the thesis' head
    [3.8].

    `size` is the side of its input; None: the thesis' own.
    """
    import keras
    from keras import layers

    size = size or BACKBONES[name]
    base = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="max"
    )
    x = layers.Flatten()(base.output)
    x = layers.Dropout(0.3)(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.25)(x)
    return keras.Model(base.input, layers.Dense(CLASSES, activation="softmax")(x), name=name)


def stacking():
    """The network over the backbones' answers side by side [3.31]."""
    import keras
    from keras import layers

    answers = keras.Input((len(BACKBONES) * CLASSES,))
    x = layers.Dense(64, activation="relu")(answers)
    x = layers.Dense(32, activation="relu")(x)
    return keras.Model(answers, layers.Dense(CLASSES, activation="softmax")(x), name="stacking")


def residual_block(x, filters: int):
    """Convolution, batch norm, ReLU, convolution, batch norm; a shortcut is added; ReLU [3.9]."""
    from keras import layers

    shortcut = layers.Conv2D(filters, 1)(x)
    y = layers.Conv2D(filters, 3, padding="same")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Conv2D(filters, 3, padding="same")(y)
    return layers.ReLU()(layers.Add()([layers.BatchNormalization()(y), shortcut]))


def resunet(size: int = 256, filters: tuple = FILTERS):
    """The thesis' ResUNet: max pooling on the way down, upsampling and concatenation on the way up
    [3.9].

    The end of the block and the doubling of the filters are not legible in the thesis; the usual is
    assumed."""
    import keras
    from keras import layers

    scan = x = keras.Input((size, size, 3))
    skips = []
    for width in filters[:-1]:
        skips.append(residual_block(x, width))
        x = layers.MaxPooling2D()(skips[-1])
    x = residual_block(x, filters[-1])
    for width, skip in zip(filters[-2::-1], skips[::-1]):
        x = residual_block(layers.Concatenate()([layers.UpSampling2D()(x), skip]), width)
    return keras.Model(scan, layers.Conv2D(1, 1, activation="sigmoid")(x), name="resunet")


class Thesis:
    """All six networks in memory, and the way of one scan through them."""

    def __init__(self):
        self.backbones = [backbone(name) for name in BACKBONES]
        self.stacking, self.resunet = stacking(), resunet()

    def inputs(self, grey: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Colour pictures of one grey scan (H x W, 0..1):

        One for each backbone, and the ResUNet's.
        """
        import cv2

        def square(side):
            return np.repeat(cv2.resize(grey, (side, side))[None, ..., None], 3, axis=-1).astype(
                np.float32
            )

        return [square(side) for side in BACKBONES.values()], square(256)

    def analyse(
        self, pictures: list[np.ndarray], scan: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Class first, by one `predict` after another, then the mask."""
        answers = [
            model.predict(picture, verbose=0) for model, picture in zip(self.backbones, pictures)
        ]
        probabilities = self.stacking.predict(np.hstack(answers), verbose=0)
        return probabilities[0], self.resunet.predict(scan, verbose=0)[0, ..., 0]
