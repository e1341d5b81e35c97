import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import l2o
from tasks.datasets import CIFAR10Config, DigitsConfig, FashionMNISTConfig, MNISTConfig

REAL_MNIST = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist"
HEIGHT, WIDTH = 4, 5  # not square, so that a transposed image has the wrong shape


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    monkeypatch.delenv("L2O_DATA", raising=False)


def numbered_images(first: int, count: int, seed: int = 0) -> np.ndarray:
    """Random images whose first pixel is their number, which makes each one unique."""
    pixels = np.random.default_rng(seed + first).integers(0, 256, (count, HEIGHT, WIDTH), dtype=np.uint8)
    pixels[:, 0, 0] = np.arange(first, first + count)
    pixels[:, -1, -1] = 255
    return pixels


def numbers(images: np.ndarray) -> list[int]:
    return np.rint(np.asarray(images)[:, 0, 0, 0] * 255).astype(int).tolist()


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(path: Path, content: bytes, zipped: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_name(path.name + ".gz") if zipped else path
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


def write_mnist(folder: Path, part: str, images: np.ndarray, zipped: bool = False) -> np.ndarray:
    """Images and their labels, the last digit of their number."""
    write(folder / f"{part}-images-idx3-ubyte", idx_bytes(images), zipped)
    write(folder / f"{part}-labels-idx1-ubyte", idx_bytes((images[:, 0, 0] % 10).astype(np.uint8)), zipped)
    return images


def cifar_rows(first: int, count: int) -> np.ndarray:
    rows = np.random.default_rng(first).integers(0, 256, (count, 3073), dtype=np.uint8)
    rows[:, 1] = np.arange(first, first + count)
    rows[:, 0] = rows[:, 1] % 10
    rows[:, -1] = 255
    return rows


def write_cifar(folder: Path, zipped: bool = False) -> np.ndarray:
    for i in range(5):
        write(folder / f"data_batch_{i + 1}.bin", cifar_rows(4 * i, 4).tobytes(), zipped)
    write(folder / "test_batch.bin", cifar_rows(20, 6).tobytes(), zipped)
    return cifar_rows(20, 6)


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_with_its_test_set(tmp_path, zipped):
    images = write_mnist(tmp_path, "train", numbered_images(0, 41), zipped)
    official = write_mnist(tmp_path, "t10k", numbered_images(41, 20), zipped)
    config = MNISTConfig(data_dir=str(tmp_path))
    train, test = config.load("train"), config.load("test")

    assert (len(train.images), len(test.images)) == (20, 21)
    assert sorted(numbers(train.images) + numbers(test.images)) == list(range(41))
    assert numbers(train.images) != sorted(numbers(train.images)), "the files are cut without being shuffled"
    for split in (train, test):
        assert split.images.dtype == np.float32 and split.labels.dtype == np.int32
        np.testing.assert_allclose(split.images[..., 0], images[numbers(split.images)] / 255, rtol=1e-6)
        assert split.labels.tolist() == [number % 10 for number in numbers(split.images)]
        np.testing.assert_allclose(split.heldout_images[..., 0], official / 255, rtol=1e-6)
        assert split.heldout_labels.tolist() == [number % 10 for number in range(41, 61)]
        assert split.images.min() >= 0 and split.images.max() == 1


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_with_the_test_files_alone(tmp_path, zipped):
    images = write_mnist(tmp_path, "t10k", numbered_images(0, 50), zipped)
    config = MNISTConfig(data_dir=str(tmp_path))
    train, test = config.load("train"), config.load("test")

    parts = numbers(train.images), numbers(test.images), numbers(train.heldout_images)
    assert [len(part) for part in parts] == [20, 20, 10]
    assert sorted(parts[0] + parts[1] + parts[2]) == list(range(50)), "every image belongs to exactly one part"
    np.testing.assert_array_equal(train.heldout_images, test.heldout_images)
    np.testing.assert_allclose(train.heldout_images[..., 0], images[parts[2]] / 255, rtol=1e-6)
    assert train.heldout_labels.tolist() == [number % 10 for number in parts[2]]


def test_training_files_alone_are_held_out_too(tmp_path):
    write_mnist(tmp_path, "train", numbered_images(0, 50))
    data = MNISTConfig(data_dir=str(tmp_path)).load("train")
    assert (len(data.images), len(data.heldout_images)) == (20, 10)
    assert not set(numbers(data.images)) & set(numbers(data.heldout_images))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_split_is_the_same_every_time(tmp_path, split):
    write_mnist(tmp_path, "t10k", numbered_images(0, 50))
    config = MNISTConfig(data_dir=str(tmp_path))
    for first, second in zip(config.load(split), config.load(split), strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_subfolder_named_after_the_kind_keeps_the_two_mnists_apart(tmp_path):
    write_mnist(tmp_path / "mnist", "t10k", numbered_images(0, 20))
    write_mnist(tmp_path / "fashion_mnist", "t10k", numbered_images(100, 20))
    assert min(numbers(FashionMNISTConfig(data_dir=str(tmp_path)).load("train").images)) >= 100
    assert max(numbers(MNISTConfig(data_dir=str(tmp_path)).load("train").images)) < 20


@pytest.mark.parametrize("name", ["fashion_mnist", "fashion-mnist"])
def test_fashion_mnist_in_a_folder_as_it_is_published(tmp_path, name):
    write_mnist(tmp_path / name, "t10k", numbered_images(100, 20))
    write_mnist(tmp_path / "cifar-10-batches-bin", "t10k", numbered_images(0, 20))
    assert min(numbers(FashionMNISTConfig(data_dir=str(tmp_path)).load("train").images)) >= 100


def test_the_environment_variable_names_the_folder_and_data_dir_wins(tmp_path, monkeypatch):
    write_mnist(tmp_path / "a", "t10k", numbered_images(0, 20))
    write_mnist(tmp_path / "b", "t10k", numbered_images(100, 20))
    monkeypatch.setenv("L2O_DATA", str(tmp_path / "a"))
    assert max(numbers(MNISTConfig().load("train").images)) < 20
    assert min(numbers(MNISTConfig(data_dir=str(tmp_path / "b")).load("train").images)) >= 100


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    write_mnist(tmp_path / "data", "t10k", numbered_images(0, 20))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(MNISTConfig(data_dir="~/data").load("train").images) == 8


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("subfolder", ["", "cifar10", "cifar-10-batches-bin"])
def test_cifar10(tmp_path, zipped, subfolder):
    official = write_cifar(tmp_path / subfolder, zipped)
    config = CIFAR10Config(data_dir=str(tmp_path))
    train, test = config.load("train"), config.load("test")

    assert train.images.shape == test.images.shape == (10, 32, 32, 3)
    assert sorted(numbers(train.images) + numbers(test.images)) == list(range(20))
    for split in (train, test):
        assert split.labels.tolist() == [number % 10 for number in numbers(split.images)]
        assert split.heldout_labels.tolist() == official[:, 0].tolist()
        assert split.images.min() >= 0 and split.images.max() == 1
    for row, column, channel in [(0, 0, 0), (3, 7, 0), (3, 7, 1), (30, 2, 2), (31, 31, 2)]:
        found = train.heldout_images[:, row, column, channel]
        np.testing.assert_allclose(found, official[:, 1 + 1024 * channel + 32 * row + column] / 255, rtol=1e-6)


def test_digits():
    train, test = DigitsConfig().load("train"), DigitsConfig().load("test")
    assert train.images.shape == test.images.shape == (719, 8, 8, 1)
    assert train.heldout_images.shape == (359, 8, 8, 1)
    assert train.images.min() == 0 and train.images.max() == 1
    assert set(train.labels.tolist()) == set(test.labels.tolist()) == set(range(10))

    def rows(images, labels):
        """Image and label together, so that a label which lost its image is seen."""
        return sorted((*np.ravel(image).tolist(), int(label)) for image, label in zip(images, labels, strict=True))

    pixels, labels = load_digits(return_X_y=True)
    parts = [(train.images, train.labels), (test.images, test.labels), (train.heldout_images, train.heldout_labels)]
    found = rows(*(np.concatenate(a) for a in zip(*parts, strict=True)))
    assert found == rows((pixels / 16).astype(np.float32), labels)
    np.testing.assert_array_equal(train.heldout_images, test.heldout_images)


def break_magic(folder):
    return write(folder / "t10k-images-idx3-ubyte", b"\0\0\x0d" + idx_bytes(numbered_images(0, 20))[3:])


def break_dimensions(folder):
    return write(folder / "t10k-images-idx3-ubyte", idx_bytes(numbered_images(0, 20)[:, 0]))


def empty(folder):
    return write(folder / "t10k-images-idx3-ubyte", b"")


def truncate_header(folder):
    return write(folder / "t10k-images-idx3-ubyte", idx_bytes(numbered_images(0, 20))[:9])


def truncate(folder):
    return write(folder / "t10k-images-idx3-ubyte", idx_bytes(numbered_images(0, 20))[:-1])


def trailing_bytes(folder):
    return write(folder / "t10k-labels-idx1-ubyte", idx_bytes(np.zeros(20, np.uint8)) + b"\0")


def promise_too_much(folder):
    return write(folder / "t10k-images-idx3-ubyte", bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"\0" * 400)


def truncate_gzip(folder):
    (folder / "t10k-images-idx3-ubyte").unlink()
    return write(folder / "t10k-images-idx3-ubyte.gz", gzip.compress(idx_bytes(numbered_images(0, 20)))[:-20])


def no_gzip(folder):
    (folder / "t10k-images-idx3-ubyte").unlink()
    return write(folder / "t10k-images-idx3-ubyte.gz", idx_bytes(numbered_images(0, 20)))


def flip_gzip_data(folder):
    (folder / "t10k-images-idx3-ubyte").unlink()
    packed = bytearray(gzip.compress(idx_bytes(numbered_images(0, 20))))
    packed[10:30] = b"\xff" * 20
    return write(folder / "t10k-images-idx3-ubyte.gz", bytes(packed))


def flip_gzip_checksum(folder):
    (folder / "t10k-images-idx3-ubyte").unlink()
    packed = bytearray(gzip.compress(idx_bytes(numbered_images(0, 20))))
    packed[-8] ^= 255
    return write(folder / "t10k-images-idx3-ubyte.gz", bytes(packed))


def too_few_labels(folder):
    return write(folder / "t10k-labels-idx1-ubyte", idx_bytes(np.zeros(19, np.uint8)))


def label_ten(folder):
    return write(folder / "t10k-labels-idx1-ubyte", idx_bytes(np.full(20, 10, np.uint8)))


def too_few_images(folder):
    write_mnist(folder, "t10k", numbered_images(0, 9))
    return folder / "t10k-images-idx3-ubyte"


def no_labels(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    return folder / "t10k-labels-idx1-ubyte"


def no_training_labels(folder):
    write(folder / "train-images-idx3-ubyte", idx_bytes(numbered_images(0, 20)))
    return folder / "train-labels-idx1-ubyte"


def no_files(folder):
    no_labels(folder)
    (folder / "t10k-images-idx3-ubyte").unlink()
    return folder / "t10k-images-idx3-ubyte"


DAMAGES = [
    (break_magic, "expected an IDX file"),
    (break_dimensions, "3 dimensions"),
    (empty, "expected an IDX file"),
    (truncate_header, "expected an IDX file"),
    (truncate, "promises"),
    (trailing_bytes, "promises"),
    (promise_too_much, "promises"),
    (truncate_gzip, "damaged"),
    (no_gzip, "damaged"),
    (flip_gzip_data, "damaged"),
    (flip_gzip_checksum, "damaged"),
    (too_few_labels, "20 images"),
    (label_ten, "found 10"),
    (too_few_images, "at least 10"),
    (no_labels, "missing"),
    (no_training_labels, "missing"),
    (no_files, "missing"),
]


def one_sentence(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert message and "\n" not in message and ". " not in message
    return message


@pytest.mark.parametrize(("damage", "found"), DAMAGES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_damaged_mnist_names_the_file_and_what_is_wrong(tmp_path, damage, found):
    write_mnist(tmp_path, "t10k", numbered_images(0, 20))
    path = damage(tmp_path)
    with pytest.raises(l2o.UserError) as error:
        MNISTConfig(data_dir=str(tmp_path)).load("train")
    message = one_sentence(error)
    assert found in message
    assert path.name in message and str(tmp_path) in message


@pytest.mark.parametrize("size", [0, 1, 3072, 2 * 3073 - 1])
def test_a_cifar_batch_of_the_wrong_size_is_refused(tmp_path, size):
    write_cifar(tmp_path)
    write(tmp_path / "data_batch_3.bin", b"\0" * size)
    with pytest.raises(l2o.UserError) as error:
        CIFAR10Config(data_dir=str(tmp_path)).load("train")
    message = one_sentence(error)
    assert (
        str(tmp_path / "data_batch_3.bin") in message and "multiple of 3073" in message and f"found {size}" in message
    )


def test_a_cifar_label_beyond_nine_is_refused(tmp_path):
    write_cifar(tmp_path)
    write(tmp_path / "test_batch.bin", bytes([10]) + b"\0" * 3072)
    with pytest.raises(l2o.UserError) as error:
        CIFAR10Config(data_dir=str(tmp_path)).load("train")
    assert str(tmp_path / "test_batch.bin") in one_sentence(error) and "found 10" in str(error.value)


def test_a_missing_cifar_batch_is_named(tmp_path):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_4.bin").unlink()
    with pytest.raises(l2o.UserError) as error:
        CIFAR10Config(data_dir=str(tmp_path)).load("train")
    assert "data_batch_4.bin" in one_sentence(error) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("config", [MNISTConfig, FashionMNISTConfig, CIFAR10Config])
def test_a_missing_folder_is_named(tmp_path, monkeypatch, config):
    with pytest.raises(l2o.UserError) as error:
        config().load("train")
    message = one_sentence(error)
    assert config().kind in message and "data_dir" in message and "L2O_DATA" in message

    with pytest.raises(l2o.UserError) as error:
        config(data_dir=str(tmp_path / "nowhere")).load("train")
    assert str(tmp_path / "nowhere") in one_sentence(error)

    monkeypatch.setenv("L2O_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(l2o.UserError) as error:
        config().load("train")
    assert str(tmp_path / "elsewhere") in one_sentence(error)


@pytest.mark.skipif(not REAL_MNIST.is_dir(), reason="the real MNIST files are not on this machine")
def test_the_real_mnist_test_files():
    config = MNISTConfig(data_dir=str(REAL_MNIST))
    train, test = config.load("train"), config.load("test")
    assert train.images.shape == test.images.shape == (4000, 28, 28, 1)
    assert train.heldout_images.shape == (2000, 28, 28, 1)
    labels = np.concatenate([train.labels, test.labels, train.heldout_labels])
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.images.min() == 0 and train.images.max() == 1

    def distinct(images):
        return {image.tobytes() for image in images}

    parts = [distinct(images) for images in (train.images, test.images, train.heldout_images)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    upright_one = train.images[train.labels == 1].mean(0)[..., 0]
    assert upright_one[:, 13:15].sum() > 3 * upright_one[13:15].sum(), "a one is a vertical stroke"


def test_shifted_images_are_moved_copies_and_what_is_held_out_stays():
    plain, moved = DigitsConfig().load("train"), DigitsConfig(shifts=1).load("train")
    n = len(plain.labels)
    assert len(moved.labels) == len(moved.images) == 9 * n
    assert moved.labels.reshape(9, n).tolist() == [plain.labels.tolist()] * 9
    np.testing.assert_array_equal(moved.images[4 * n : 5 * n], plain.images)
    np.testing.assert_array_equal(moved.images[:n, 1:, 1:], plain.images[:, :-1, :-1])
    assert not moved.images[:n, 0].any() and not moved.images[:n, :, 0].any()
    np.testing.assert_array_equal(moved.heldout_images, plain.heldout_images)
