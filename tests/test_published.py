"""The published SHD layout: what is published we can read."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from snnbench.data_prep.download import hash_like
from snnbench.data_prep.export import export_published
from snnbench.data_prep.published import import_published
from snnbench.data_prep.recipe import Recipe, load_recipe
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError, UsageError
from tests.published_files import published, samples_of, write_published

RECIPE = load_recipe("shd")


def import_partial(source: Path, out: Path, **options: Any) -> None:
    """Import files that are in the published layout, but not the published ones."""
    import_published(RECIPE, source, out, partial=True, **options)


def test_published_files_become_a_data_set(tmp_path: Path) -> None:
    train, test = published(tmp_path / "source")
    import_partial(tmp_path / "source", tmp_path / "shd.h5")
    found: dict[str, tuple[list[float], list[int], int, int]] = {}
    with SpikeDataset.open(tmp_path / "shd.h5") as dataset:
        dataset.check()
        assert dataset.header.groups == ("00", "01", "04", "05", "07", "08", "09")
        assert dataset.group_names("train") == ["00", "01", "07"]
        assert dataset.group_names("valid") == ["08", "09"]
        assert dataset.group_names("test") == ["00", "04", "05", "08"]
        for split in dataset.splits:
            part = dataset.read(split)
            for i, source_id in enumerate(part.source_ids):
                times, units = part.sample(i)
                speaker = int(dataset.header.groups[part.groups[i]])
                found[source_id] = (times.tolist(), units.tolist(), int(part.labels[i]), speaker)
    wanted = {
        f"{path.stem}/{i}": sample
        for path in (train, test)
        for i, sample in enumerate(samples_of(path))
    }
    # float16 seconds survive to the bit, those above 0.5 s too
    assert found == wanted
    assert max(t for times, *_ in found.values() for t in times) > 1


def test_unsorted_published_spikes_are_sorted(tmp_path: Path) -> None:
    def swap(file: h5py.File) -> None:
        file["spikes/times"][0] = np.array([0.75, 0.25, 0.75], np.float16)
        file["spikes/units"][0] = np.array([5, 6, 4])

    published(tmp_path, swap)
    import_partial(tmp_path, tmp_path / "out.h5")
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        times, units = dataset.read("train").sample(0)
    assert times.tolist() == [0.25, 0.75, 0.75]
    assert units.tolist() == [6, 5, 4]


def test_other_validation_speakers(tmp_path: Path) -> None:
    published(tmp_path)
    import_partial(tmp_path, tmp_path / "out.h5", valid_groups=("01",))
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        assert dataset.group_names("valid") == ["01"]
        assert '"valid_groups":["01"]' in dataset.header.recipe


def test_what_we_export_comes_back_with_its_splits(tmp_path: Path) -> None:
    published(tmp_path / "in")
    import_partial(tmp_path / "in", tmp_path / "first.h5", valid_groups=("01", "07"))
    with SpikeDataset.open(tmp_path / "first.h5") as first:
        files = export_published(first, tmp_path / "out")
        assert "shd_valid.h5" in [path.name for path in files]
        with pytest.raises(SnnbenchError, match="the validation file is the validation split"):
            import_partial(tmp_path / "out", tmp_path / "second.h5", valid_groups=("07",))
        import_partial(tmp_path / "out", tmp_path / "second.h5")
        with SpikeDataset.open(tmp_path / "second.h5") as second:
            second.check()
            assert second.header.recipe == first.header.recipe
            assert '"valid_groups":["01","07"]' in second.header.recipe
            for split in first.splits:
                one, other = first.read(split), second.read(split)
                np.testing.assert_array_equal(one.times, other.times)
                np.testing.assert_array_equal(one.units, other.units)
                np.testing.assert_array_equal(one.labels, other.labels)
                assert first.group_names(split) == second.group_names(split)


def test_a_validation_file_that_shares_speakers_with_training(tmp_path: Path) -> None:
    published(tmp_path)
    write_published(tmp_path / "shd_valid.h5", [8, 9])
    with pytest.raises(SnnbenchError, match="speakers 08, 09 are in both the training and"):
        import_partial(tmp_path, tmp_path / "out.h5")


def test_test_groups_make_no_sense_for_published_files(tmp_path: Path) -> None:
    published(tmp_path)
    with pytest.raises(SnnbenchError, match="drop --test-groups"):
        import_partial(tmp_path, tmp_path / "out.h5", test_groups=("04",))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (("99",), "unknown validation group"),
        (("04",), "unknown validation group .*shd_train.h5 '04'"),  # speaks in test only
        (("00", "01", "07", "08", "09"), "none is left to train"),
    ],
)
def test_validation_speakers_that_do_not_work_out(
    tmp_path: Path, groups: tuple[str, ...], message: str
) -> None:
    published(tmp_path)
    with pytest.raises(SnnbenchError, match=message):
        import_partial(tmp_path, tmp_path / "out.h5", valid_groups=groups)
    assert not (tmp_path / "out.h5").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    train, test = published(tmp_path)
    test.unlink()
    with pytest.raises(SnnbenchError, match=r"shd_test.h5: missing, as are shd_test.h5.gz and"):
        import_partial(tmp_path, tmp_path / "out.h5")
    assert [p.name for p in tmp_path.iterdir()] == [train.name]


def replace(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


def set_first(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[name][0] = value

    return change


BROKEN: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "no labels": (replace("labels", None), "labels cannot be read"),
    "no speakers": (replace("extra/speaker", None), "extra/speaker cannot be read"),
    "labels too short": (replace("labels", np.zeros(3, int)), "not one value per sample"),
    "labels are text": (replace("labels", [b"a"] * 10), "labels is not of the published type"),
    "one label": (replace("labels", 3), "not one value per sample"),
    "flat times": (replace("spikes/times", np.zeros(10)), "spikes/times is not of the"),
    "label out of range": (set_first("labels", 20), "label 20 is out of range"),
    "negative label": (set_first("labels", -1), "label -1 is out of range"),
    "unit out of range": (
        set_first("spikes/units", np.full(50, 700)),
        "unit 700 in sample shd_train/0",
    ),
    "unit beyond 16 bits": (
        set_first("spikes/units", np.full(50, 65536)),
        "unit 65536 in sample shd_train/0",
    ),
    "nan": (
        set_first("spikes/times", np.full(50, np.nan, np.float16)),
        "nan s in sample shd_train/0",
    ),
    "infinite": (
        set_first("spikes/times", np.full(50, np.inf, np.float16)),
        "sample 0 has a spike at inf: beyond the largest float16, 65504",
    ),
    "milliseconds": (
        set_first("spikes/times", np.linspace(0, 1370, 50).astype(np.float16)),
        "sample 0 has a spike at 1370.0: not in seconds",
    ),
    "before the beginning": (
        set_first("spikes/times", np.full(50, -0.25, np.float16)),
        "-0.25 s in sample shd_train/0",
    ),
    "negative speaker": (set_first("extra/speaker", -1), "holds the negative number -1"),
    "other classes": (replace("extra/keys", [b"a", b"b"]), "names 2 classes, shd has 20"),
    "no samples": (
        lambda file: [
            replace(name, np.zeros(0, int))(file) for name in ("labels", "extra/speaker")
        ],
        "not one value per sample",
    ),
    "more times than units": (
        set_first("spikes/times", np.zeros(51, np.float16)),
        "sample 0 has 51 times, but 50 units",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_layout_is_refused(tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    published(tmp_path, change)
    with pytest.raises(SnnbenchError) as caught:
        import_partial(tmp_path, tmp_path / "out.h5")
    assert message in str(caught.value)
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 still zipped", b"\x89HDF\r\n\x1a\n"])
def test_files_that_are_not_hdf5(tmp_path: Path, content: bytes) -> None:
    published(tmp_path)
    (tmp_path / "shd_train.h5").write_bytes(content)
    with pytest.raises(SnnbenchError, match=r"shd_train.h5: .* cannot be read"):
        import_partial(tmp_path, tmp_path / "out.h5")


def test_unknown_name_is_a_usage_error(tmp_path: Path) -> None:
    published(tmp_path)
    with pytest.raises(UsageError, match="did you mean"):
        import_partial(tmp_path, tmp_path / "out.h5", valid_groups=("0",))


def test_files_of_other_names(tmp_path: Path) -> None:
    for path, name in zip(published(tmp_path), ("one.h5", "two.h5"), strict=True):
        path.rename(tmp_path / name)
    for files in (("one.h5", "two.h5"), ("one.h5",)):
        source = RECIPE.source.model_copy(update={"files": files})
        recipe = RECIPE.model_copy(update={"source": source})
        if len(files) == 1:
            with pytest.raises(SnnbenchError, match=r"source.files names 1 files"):
                import_published(recipe, tmp_path, tmp_path / "out.h5", partial=True)
        else:
            import_published(recipe, tmp_path, tmp_path / "out.h5", partial=True)
            with SpikeDataset.open(tmp_path / "out.h5") as dataset:
                assert dataset.group_names("valid") == ["08", "09"]


# --- packed files


def pack(path: Path, suffix: str) -> Path:
    packed = path.with_name(path.name + suffix)
    if suffix == ".gz":
        packed.write_bytes(gzip.compress(path.read_bytes()))
    else:
        with zipfile.ZipFile(packed, "w") as archive:
            archive.write(path, path.name)
    path.unlink()
    return packed


@pytest.mark.parametrize("suffixes", [(".gz", ".zip"), (".zip", ""), ("", ".gz")])
def test_packed_files_are_read_too(tmp_path: Path, suffixes: tuple[str, str]) -> None:
    files = published(tmp_path / "source")
    import_partial(tmp_path / "source", tmp_path / "plain.h5")
    for path, suffix in zip(files, suffixes, strict=True):
        if suffix:
            pack(path, suffix)
    before = sorted((tmp_path / "source").iterdir())
    import_partial(tmp_path / "source", tmp_path / "out" / "packed.h5")
    assert sorted((tmp_path / "source").iterdir()) == before
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["packed.h5"]
    with (
        SpikeDataset.open(tmp_path / "plain.h5") as plain,
        SpikeDataset.open(tmp_path / "out/packed.h5") as packed,
    ):
        # the source is what was packed, so its hash is the same
        assert packed.identity == plain.identity


def test_a_damaged_packed_file(tmp_path: Path) -> None:
    train, _ = published(tmp_path / "source")
    packed = pack(train, ".gz")
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(SnnbenchError, match=r"shd_train.h5.gz"):
        import_partial(tmp_path / "source", tmp_path / "out" / "shd.h5")
    assert not list((tmp_path / "out").iterdir())


# --- the published files, and others in their layout


def recipe_of(folder: Path, words: int, **changes: Any) -> Recipe:
    """A recipe to which the files in `folder`, of `words` samples per speaker, are the published."""
    download = {
        "mirrors": ["https://mirror.invalid/"],
        "files": [
            {"target": path.name, "hash": hash_like(path, "md5:"), "packed": [{"name": "x.gz"}]}
            for path in sorted(folder.glob("*.h5"))
        ],
    }
    counts = {"train": 5 * words, "test": 4 * words}
    return Recipe(
        **{**RECIPE.model_dump(), "expected_samples": counts, "download": download, **changes}
    )


def test_the_published_files_are_recognised(tmp_path: Path) -> None:
    published(tmp_path, words=20)
    progress: list[tuple[int, int]] = []
    import_published(
        recipe_of(tmp_path, 20),
        tmp_path,
        tmp_path / "out.h5",
        progress=lambda done, total: progress.append((done, total)),
    )
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        dataset.check()
        assert {s: dataset.n_samples(s) for s in dataset.splits} == {
            "train": 60,
            "valid": 40,
            "test": 80,
        }
    assert progress == [(100, 180), (180, 180)]


def test_an_export_of_the_published_files_has_their_number(tmp_path: Path) -> None:
    published(tmp_path / "in", words=20)
    recipe = recipe_of(tmp_path / "in", 20)
    import_published(recipe, tmp_path / "in", tmp_path / "first.h5")
    with SpikeDataset.open(tmp_path / "first.h5") as dataset:
        export_published(dataset, tmp_path / "out")
    # counts hold, but the file is another
    with pytest.raises(SnnbenchError, match=r"shd_train.h5: its checksum is md5:.*--partial"):
        import_published(recipe, tmp_path / "out", tmp_path / "second.h5")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train": 100, "test": 81}, "holds train 100 / test 80 samples, the published files hold"),
        ({"train": 99, "test": 81}, "together they are as many: another release"),
    ],
)
def test_other_counts_are_refused(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    published(tmp_path, words=20)
    recipe = recipe_of(tmp_path, 20, expected_samples=counts)
    with pytest.raises(SnnbenchError) as caught:
        import_published(recipe, tmp_path, tmp_path / "out.h5")
    assert message in str(caught.value)
    assert "--partial" in str(caught.value)
    assert not (tmp_path / "out.h5").exists()
    import_published(recipe, tmp_path, tmp_path / "out.h5", partial=True)


def test_the_published_counts_are_those_of_the_recipes() -> None:
    assert RECIPE.expected_samples == {"train": 8156, "test": 2264}
    assert sum(load_recipe("ssc").expected_samples.values()) == 105_829


def test_another_file_is_refused(tmp_path: Path) -> None:
    train, _ = published(tmp_path, words=20)
    recipe = recipe_of(tmp_path, 20)
    known = hash_like(train, "md5:")
    with h5py.File(train, "r+") as file:
        file["extra/speaker"][0] = 1
    with pytest.raises(SnnbenchError) as caught:
        import_published(recipe, tmp_path, tmp_path / "out.h5")
    assert known in str(caught.value)
    assert hash_like(train, "md5:") in str(caught.value)
    import_published(recipe, tmp_path, tmp_path / "out.h5", partial=True)


def test_a_class_that_is_missing_from_a_split(tmp_path: Path) -> None:
    """Speaker 8, who validates, never says three."""

    def never_three(file: h5py.File) -> None:
        labels, speakers = file["labels"][()], file["extra/speaker"][()]
        labels[(labels == 3) & (speakers == 8)] = 4
        file["labels"][...] = labels

    published(tmp_path, never_three, words=20)
    recipe = recipe_of(tmp_path, 20)
    with pytest.raises(SnnbenchError, match="no sample of 'three' in the split valid"):
        import_published(recipe, tmp_path, tmp_path / "out.h5", valid_groups=("08",))
    import_published(recipe, tmp_path, tmp_path / "out.h5")  # speaker 9 says it
    import_published(recipe, tmp_path, tmp_path / "p.h5", valid_groups=("08",), partial=True)


def test_microseconds_are_beyond_float16_but_not_beyond_us(tmp_path: Path) -> None:
    """1.2 s are 1.2e6 µs, and float16 ends at 65504: what is multiplied before it is widened is lost."""
    train, _ = published(tmp_path)
    import_partial(tmp_path, tmp_path / "out.h5")
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        part = dataset.read("train")
    with h5py.File(train) as file:
        narrow = file["spikes/times"][0]
    with np.errstate(over="ignore"):
        assert np.isinf(narrow * np.float16(1e6)).mean() > 0.9
    times, _ = part.sample(0)
    np.testing.assert_array_equal(times.astype(float) * 1e6, narrow.astype(float) * 1e6)
    assert np.isfinite(times * np.float32(1e6)).all()


# --- SSC


SSC = load_recipe("ssc")


def ssc(folder: Path, train: list[int], valid: list[int], test: list[int]) -> None:
    def no_meta_info(file: h5py.File) -> None:
        del file["extra/meta_info"]

    folder.mkdir(exist_ok=True)
    for split, speakers in {"train": train, "valid": valid, "test": test}.items():
        write_published(folder / f"ssc_{split}.h5", speakers, no_meta_info, words=20)


def test_ssc_has_a_validation_file_and_names_its_classes(tmp_path: Path) -> None:
    ssc(tmp_path, [0, 1, 1234], [2, 99], [3])
    with pytest.raises(SnnbenchError, match="train 60 / valid 40 / test 20 samples, the published"):
        import_published(SSC, tmp_path, tmp_path / "out.h5")
    import_published(SSC, tmp_path, tmp_path / "out.h5", partial=True)
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        dataset.check()
        assert dataset.header.classes == RECIPE.classes
        assert dataset.group_names("train") == ["00", "01", "1234"]
        assert dataset.group_names("valid") == ["02", "99"]
        assert dataset.n_samples("valid") == 40
        assert '"rule":"published"' in dataset.header.recipe
    with pytest.raises(SnnbenchError, match="the validation file is the validation split"):
        import_published(SSC, tmp_path, tmp_path / "x.h5", partial=True, valid_groups=("01",))


def test_ssc_speakers_that_are_counted_anew_in_every_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ssc(tmp_path, [0, 1, 2], [0, 1], [0])
    import_published(SSC, tmp_path, tmp_path / "out.h5", partial=True)
    assert "2 speaker numbers are in both training and validation" in caplog.text
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        dataset.check()
        assert dataset.group_names("valid") == ["valid-00", "valid-01"]


def test_ssc_files_have_to_name_the_same_classes(tmp_path: Path) -> None:
    ssc(tmp_path, [0], [1], [2])
    with h5py.File(tmp_path / "ssc_test.h5", "r+") as file:
        file["extra/keys"][0] = b"yes"
    with pytest.raises(SnnbenchError, match=r"ssc_test.h5: extra/keys are not those of ssc_train"):
        import_published(SSC, tmp_path, tmp_path / "out.h5", partial=True)
    with h5py.File(tmp_path / "ssc_train.h5", "r+") as file:
        del file["extra/keys"]
    with pytest.raises(SnnbenchError, match="names of the classes, is missing"):
        import_published(SSC, tmp_path, tmp_path / "out.h5", partial=True)
