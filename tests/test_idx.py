"""IDX files: what is read, and what is refused. MNIST and Fashion-MNIST themselves where they are."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from snnbench.data_prep.idx import labelled_images, read_idx, read_image
from snnbench.data_prep.recipe import load_recipe
from snnbench.data_prep.sources import NO_GROUPS, Recording
from snnbench.errors import SnnbenchError, UsageError
from tests.tiny_images import IDX_NAMES, idx_bytes, image_recipe, write_images

FASHION = Path("/usr/share/datasets/fashion-mnist")


@given(
    values=arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9)),
    packed=st.booleans(),
)
def test_files_round_trip(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, packed: bool
) -> None:
    content = idx_bytes(values)
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(content) if packed else content)
    read = read_idx(path, values.ndim)
    np.testing.assert_array_equal(read.values, values)
    assert read.content == content


def _header(*sizes: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(sizes)]) + np.array(sizes, ">u4").tobytes()


GOOD = idx_bytes(np.arange(24).reshape(2, 3, 4))
PACKED = gzip.compress(GOOD)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is no IDX file: starts with nothing, expected 00 00 08 03"),
    "text": (b"not an image", "is no IDX file: starts with 6e 6f 74 20, expected 00 00 08 03"),
    "type": (b"\0\0\x07" + GOOD[3:], "is no IDX file: starts with 00 00 07 03"),
    "floats": (_header(1, 1, 1, kind=13) + bytes(4), "holds floats, expected unsigned bytes"),
    "labels": (_header(2) + b"\1\2", "has 1 dimensions, expected 3"),
    "header": (GOOD[:10], "ends within its header of 16 bytes"),
    "truncated": (GOOD[:-1], "says 2 x 3 x 4 = 24 bytes, but there are only 23"),
    "trailing": (GOOD + b"\0", "says 2 x 3 x 4 = 24 bytes, but there are more"),
    "huge": (
        _header(2**32 - 1, 2**32 - 1, 2**32 - 1),
        "more than the file can hold",
    ),
    "huge packed": (
        gzip.compress(_header(60_000, 28, 28)),
        "60000 x 28 x 28 = 47,040,000 bytes, more than the file can hold",
    ),
    "packed text": (gzip.compress(b"not an image"), "is no IDX file: starts with 6e 6f 74 20"),
    "packed, cut": (PACKED[:-9], "ends early: the packed file is not whole"),
    "packed, flipped": (
        PACKED[:-6] + bytes([PACKED[-6] ^ 1]) + PACKED[-5:],
        "the packed file is damaged: CRC check failed",
    ),
    "packed, more": (PACKED + b"more", "the packed file is damaged: Not a gzipped file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_what_was_found(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(SnnbenchError) as caught:
        read_idx(path, 3)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@given(content=st.binary(max_size=60), keep=st.integers(0, len(GOOD)))
def test_no_bytes_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, keep: int
) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    for spoilt in (content, GOOD[:keep] + content, PACKED[:keep] + content):
        path.write_bytes(spoilt)
        with suppress(SnnbenchError):
            read_idx(path, 3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnnbenchError, match="nothing: cannot read: No such file"):
        read_idx(tmp_path / "nothing", 1)


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_is_listed_in_the_order_of_its_files(tmp_path: Path, packed: bool) -> None:
    recipe = image_recipe("mnist-latency")
    recordings, classes = labelled_images(write_images(tmp_path, packed=packed), recipe)
    assert classes == recipe.classes
    assert [r.split for r in recordings] == 30 * ["train"] + 20 * ["test"]
    assert [r.label for r in recordings] == [i % 10 for i in (*range(30), *range(20))]
    assert [r.position for r in recordings] == [*range(30), *range(20)]
    assert {r.group for r in recordings} == {NO_GROUPS}
    assert [recordings[i].source_id for i in (0, 29, 30)] == [
        "train/00000",
        "train/00029",
        "test/00000",
    ]
    images = read_idx(tmp_path / (IDX_NAMES[2] + ".gz" * packed), 3).values
    np.testing.assert_array_equal(read_image(recordings[33]), images[3].ravel())


def test_an_image_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "images"
    for value in (1, 2):
        path.write_bytes(idx_bytes(np.full((value, 2, 2), value)))
        recording = Recording(path, "train/00000", 0, NO_GROUPS)
        assert read_image(recording).tolist() == 4 * [value]


def _drop(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _put(name: str, values: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(idx_bytes(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop(IDX_NAMES[2]), "holds neither t10k-images-idx3-ubyte nor t10k-images-idx3-ubyte.gz"),
        (_put(IDX_NAMES[1], np.zeros(29)), f"{IDX_NAMES[1]}: 29 labels for the 30 images of "),
        (
            _put(IDX_NAMES[3], np.full(20, 10)),
            "label 10 of image 0 is out of range, recipe mnist-latency has 10 classes",
        ),
        (_put(IDX_NAMES[0], np.zeros(30)), f"{IDX_NAMES[0]}: has 1 dimensions, expected 3"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    change(write_images(tmp_path))
    with pytest.raises(SnnbenchError, match=re.escape(message)):
        labelled_images(tmp_path, image_recipe("mnist-latency"))


def test_no_folder_and_a_recipe_without_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(SnnbenchError, match="nowhere: no such source folder"):
        labelled_images(tmp_path / "nowhere", image_recipe("mnist-latency"))
    recipe = image_recipe("mnist-latency")
    nameless = recipe.model_copy(update={"source": recipe.source.model_copy(update={"files": ()})})
    with pytest.raises(UsageError, match=r"source\.files needs four names .*, found 0"):
        labelled_images(tmp_path, nameless)


def test_content_that_is_not_the_published_one_is_refused_with_both_hashes(tmp_path: Path) -> None:
    write_images(tmp_path)
    found = hashlib.sha256((tmp_path / IDX_NAMES[0]).read_bytes()).hexdigest()
    download = load_recipe("mnist-latency").download
    assert download is not None
    expected = download.files[0].hash.removeprefix("sha256:")
    with pytest.raises(SnnbenchError) as caught:
        labelled_images(tmp_path, image_recipe("mnist-latency", download=download))
    assert f"its sha256, unpacked, is {found}, expected {expected}" in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / IDX_NAMES[0]))


# --- the files themselves


def _packed_md5(name: str) -> dict[str, str]:
    download = load_recipe(name).download
    assert download is not None
    return {file.target: file.packed[0].hash.removeprefix("md5:") for file in download.files}


def test_the_recipe_knows_mnist(shared_data: Path) -> None:
    recipe = load_recipe("mnist-latency")
    recordings, _ = labelled_images(shared_data / "mnist", recipe)
    labels = np.array([r.label for r in recordings])
    # digits per class as LeCun's files are known to have them
    assert np.bincount(labels[:60_000]).tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    assert np.bincount(labels[60_000:]).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    for name, md5 in _packed_md5("mnist-latency").items():
        packed = (shared_data / "mnist" / f"{name}.gz").read_bytes()
        assert hashlib.md5(packed, usedforsecurity=False).hexdigest() == md5


def test_both_recipes_on_mnist_name_the_same_files() -> None:
    recipes = [load_recipe(name) for name in ("mnist-latency", "smnist")]
    assert recipes[0].download == recipes[1].download
    assert recipes[0].source == recipes[1].source


def test_the_recipe_knows_fashion_mnist() -> None:
    """Debian packed the files anew, without name and date; with these, the MD5s are the published."""
    if not FASHION.is_dir():
        pytest.skip("needs the Debian package dataset-fashion-mnist, which is not here")
    recordings, _ = labelled_images(FASHION, load_recipe("fashion-mnist-latency"))
    labels = np.array([r.label for r in recordings])
    assert np.bincount(labels[:60_000]).tolist() == 10 * [6000]
    assert np.bincount(labels[60_000:]).tolist() == 10 * [1000]
    packed_at = {"t10k": 1_504_176_627, "train": 1_504_176_606}  # 31 August 2017
    for name, md5 in _packed_md5("fashion-mnist-latency").items():
        time = packed_at[name.partition("-")[0]].to_bytes(4, "little")
        body = (FASHION / f"{name}.gz").read_bytes()[10:]
        original = b"\x1f\x8b\x08\x08" + time + b"\0\x03" + name.encode() + b"\0" + body
        assert hashlib.md5(original, usedforsecurity=False).hexdigest() == md5
