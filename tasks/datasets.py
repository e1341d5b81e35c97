"""Image classification data: scikit-learn's bundled digits, and files from a folder the user names."""

import struct
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from l2o.errors import UserError
from l2o.registry import Config, register
from tasks.family import Split
from tasks.folders import InFolder, read

HOLDOUT = 0.2  # share of the images that no inner training ever sees, when the data brings no test set of its own
SHUFFLE_SEED = 2016


class Dataset(NamedTuple):
    """Images and labels of one split.

    Attributes:
      images: float32 [n, height, width, channels], in [0, 1].
      labels: int32 [n].
      heldout_images, heldout_labels: images that no inner training sees, for measuring generalization.
    """

    images: Any
    labels: Any
    heldout_images: Any
    heldout_labels: Any


class DatasetConfig(Config):
    """Room of the datasets.

    Attributes:
      shifts: images to learn from also come moved by up to so many pixels each way, black where nothing was: there are
        (2 shifts + 1)^2 times as many. Held-out images stay as they are.
      white: the largest pixel value, a fact of the format; images are divided by it.
    """

    kind: str
    shifts: int = Field(default=0, ge=0, le=8)
    white: ClassVar[float] = 255.0

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Training images [n, h, w, c] and labels [n], then the official test set's, or None."""
        raise TypeError(f"{type(self).__name__} does not define arrays()")

    def load(self, split: Split) -> Dataset:
        """Read the data and cut it: half for meta-training, half for studies, and a part that neither trains on.

        The images are permuted with a fixed seed first. "train" and "test" share no image, and the held-out part
        (the official test set, else a fifth of all images) belongs to neither.
        """
        images, labels, test_images, test_labels = self.arrays()
        order = np.random.default_rng(SHUFFLE_SEED).permutation(len(images))
        images, labels = images[order], labels[order]
        if test_images is None or test_labels is None:
            n = round(HOLDOUT * len(images))
            test_images, test_labels = images[:n], labels[:n]
            images, labels = images[n:], labels[n:]
        half = len(images) // 2
        part = slice(0, half) if split == "train" else slice(half, None)
        moved = _moved((images[part] / self.white).astype(np.float32), self.shifts)
        return Dataset(
            np.concatenate(moved),
            np.tile(labels[part].astype(np.int32), len(moved)),
            (test_images / self.white).astype(np.float32),
            test_labels.astype(np.int32),
        )


def _moved(images: np.ndarray, shifts: int) -> list[np.ndarray]:
    """Images [n, h, w, c], moved by every pair of numbers of pixels from -shifts to shifts."""
    if not shifts:
        return [images]
    _, h, w, _ = images.shape
    padded = np.pad(images, ((0, 0), (shifts, shifts), (shifts, shifts), (0, 0)))
    steps = range(2 * shifts + 1)
    return [padded[:, i : i + h, j : j + w] for i in steps for j in steps]


@register
class DigitsConfig(DatasetConfig):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, 10 classes; bundled, needs no folder."""

    kind: Literal["digits"] = "digits"
    white: ClassVar[float] = 16.0

    def arrays(self):
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return np.reshape(pixels, (-1, 8, 8, 1)), np.asarray(labels), None, None


@register
class PhotographsConfig(DatasetConfig):
    """Square tiles of the two colour photographs that come with scikit-learn, a temple (label 0) and a flower (1).

    Attributes:
      tile: height and width of a tile in pixels; 64 makes 120 tiles.
    """

    kind: Literal["photographs"] = "photographs"
    tile: int = Field(default=64, ge=4, le=142)

    def arrays(self):
        from sklearn.datasets import load_sample_images

        size, tiles = self.tile, []
        for photograph in load_sample_images().images:
            h, w = (n // size for n in photograph.shape[:2])
            cut = photograph[: h * size, : w * size].reshape(h, size, w, size, 3)
            tiles.append(cut.transpose(0, 2, 1, 3, 4).reshape(h * w, size, size, 3))
        return np.concatenate(tiles), np.repeat([0, 1], [len(part) for part in tiles]), None, None


class FolderConfig(DatasetConfig, InFolder):
    """A dataset in a folder."""


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An array of unsigned bytes in the IDX format of MNIST.

    Raises:
      UserError: wrong magic number, or a length that does not match the header.
    """
    raw = read(path)
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes([0, 0, 8, dimensions]):
        raise UserError(f"{path} is damaged: expected an IDX file of unsigned bytes with {dimensions} dimensions")
    shape = struct.unpack(f">{dimensions}I", raw[4:header])
    if len(raw) != header + int(np.prod(shape, dtype=np.int64)):
        raise UserError(f"{path} is damaged: its header promises {shape} bytes, found {len(raw) - header} bytes")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _images_and_labels(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    x, y = read_idx(images, 3)[..., None].astype(np.float32), read_idx(labels, 1)
    if len(x) != len(y):
        raise UserError(f"{images} has {len(x)} images but {labels} has {len(y)} labels")
    if len(x) < 10:
        raise UserError(f"{images} has {len(x)} images, expected at least 10")
    if y.max() > 9:
        raise UserError(f"{labels} is damaged: expected labels 0 to 9, found {y.max()}")
    return x, y


@register
class MNISTConfig(FolderConfig):
    """MNIST in IDX files, 28 x 28 pixels. A folder with only the 10,000 test images works too."""

    kind: Literal["mnist"] = "mnist"

    def arrays(self):
        if self.find("train-images-idx3-ubyte") is None:
            images = self.need("t10k-images-idx3-ubyte")
            return *_images_and_labels(images, self.need("t10k-labels-idx1-ubyte")), None, None
        train = _images_and_labels(self.need("train-images-idx3-ubyte"), self.need("train-labels-idx1-ubyte"))
        if self.find("t10k-images-idx3-ubyte") is None:
            return *train, None, None
        return *train, *_images_and_labels(self.need("t10k-images-idx3-ubyte"), self.need("t10k-labels-idx1-ubyte"))


@register
class FashionMNISTConfig(MNISTConfig):
    """Fashion-MNIST in IDX files, 28 x 28 pixels, the file names of MNIST; put it in a folder of its own."""

    kind: Literal["fashion_mnist"] = "fashion_mnist"
    subfolders: ClassVar[tuple[str, ...]] = ("fashion-mnist",)


@register
class CIFAR10Config(FolderConfig):
    """CIFAR-10 in its binary format (data_batch_1.bin to data_batch_5.bin, test_batch.bin), 32 x 32 x 3."""

    kind: Literal["cifar10"] = "cifar10"
    subfolders: ClassVar[tuple[str, ...]] = ("cifar-10-batches-bin",)

    def arrays(self):
        parts = [self._batch(self.need(f"data_batch_{i}.bin")) for i in range(1, 6)]
        images, labels = (np.concatenate(a) for a in zip(*parts, strict=True))
        return images, labels, *self._batch(self.need("test_batch.bin"))

    def _batch(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        raw = np.frombuffer(read(path), np.uint8)
        row = 1 + 3 * 32 * 32
        if len(raw) == 0 or len(raw) % row:
            raise UserError(f"{path} is damaged: expected a multiple of {row} bytes, found {len(raw)}")
        rows = raw.reshape(-1, row)
        if rows[:, 0].max() > 9:
            raise UserError(f"{path} is damaged: expected labels 0 to 9, found {rows[:, 0].max()}")
        return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.float32), rows[:, 0]
