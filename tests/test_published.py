"""The published SHD layout: what is published we can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from snnbench.data_prep.export import export_published
from snnbench.data_prep.published import import_published
from snnbench.data_prep.recipe import load_recipe
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError, UsageError

RECIPE = load_recipe("shd")


def write_published(
    path: Path, speakers: list[int], change: Callable[[h5py.File], Any] | None = None
) -> Path:
    """A file laid out as the published ones, two samples per speaker, spikes up to 1.2 s."""
    rng = np.random.default_rng(len(speakers))
    n = 2 * len(speakers)
    times = [rng.uniform(0, 1.2, 50).astype(np.float16) for _ in range(n)]
    with h5py.File(path, "w") as file:
        file.create_dataset("spikes/times", (n,), h5py.vlen_dtype(np.float16))
        file.create_dataset("spikes/units", (n,), h5py.vlen_dtype(np.int64))
        for i, t in enumerate(times):
            file["spikes/times"][i] = np.sort(t)
            file["spikes/units"][i] = rng.integers(0, 700, len(t))
        file["labels"] = rng.integers(0, 20, n)
        file["extra/speaker"] = np.repeat(speakers, 2)
        file["extra/keys"] = [name.encode() for name in RECIPE.classes]
        file["extra/meta_info/gender"] = [b"female"] * 12
        if change:
            change(file)
    return path


def published(folder: Path, change: Callable[[h5py.File], Any] | None = None) -> tuple[Path, Path]:
    """Train and test files; speakers 4 and 5 are in test only, as published."""
    folder.mkdir(exist_ok=True)
    return (
        write_published(folder / "shd_train.h5", [0, 1, 7, 8, 9], change),
        write_published(folder / "shd_test.h5", [0, 4, 5, 8], change),
    )


def samples_of(path: Path) -> list[tuple[list[float], list[int], int, int]]:
    """Everything a published file says of its samples."""
    with h5py.File(path) as file:
        return [
            (t.tolist(), u.tolist(), int(label), int(speaker))
            for t, u, label, speaker in zip(
                file["spikes/times"][()],
                file["spikes/units"][()],
                file["labels"][()],
                file["extra/speaker"][()],
                strict=True,
            )
        ]


# --- import


def test_published_files_become_a_data_set(tmp_path: Path) -> None:
    train, test = published(tmp_path / "source")
    import_published(RECIPE, tmp_path / "source", tmp_path / "shd.h5")
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
    import_published(RECIPE, tmp_path, tmp_path / "out.h5")
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        times, units = dataset.read("train").sample(0)
    assert times.tolist() == [0.25, 0.75, 0.75]
    assert units.tolist() == [6, 5, 4]


def test_other_validation_speakers(tmp_path: Path) -> None:
    published(tmp_path)
    import_published(RECIPE, tmp_path, tmp_path / "out.h5", valid_groups=("01",))
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        assert dataset.group_names("valid") == ["01"]
        assert '"valid_groups":["01"]' in dataset.header.recipe


def test_export_import_export_is_stable(tmp_path: Path) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    published(tmp_path / "in")
    import_published(RECIPE, tmp_path / "in", tmp_path / "first.h5", valid_groups=("01",))
    with SpikeDataset.open(tmp_path / "first.h5") as dataset:
        export_published(dataset, tmp_path / "out")
    import_published(RECIPE, tmp_path / "out", tmp_path / "second.h5", valid_groups=("07",))
    with SpikeDataset.open(tmp_path / "second.h5") as dataset:
        dataset.check()
        files = export_published(dataset, tmp_path / "again")
    again = [sample for file in files[:2] for sample in samples_of(file)]
    key = str
    assert sorted(again, key=key) == sorted(samples_of(tmp_path / "out/shd_train.h5"), key=key)
    assert samples_of(files[2]) == samples_of(tmp_path / "in/shd_test.h5")


def test_test_groups_make_no_sense_for_published_files(tmp_path: Path) -> None:
    published(tmp_path)
    with pytest.raises(SnnbenchError, match="drop --test-groups"):
        import_published(RECIPE, tmp_path, tmp_path / "out.h5", test_groups=("04",))


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
        import_published(RECIPE, tmp_path, tmp_path / "out.h5", valid_groups=groups)
    assert not (tmp_path / "out.h5").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    train, test = published(tmp_path)
    test.unlink()
    with pytest.raises(SnnbenchError, match=r"shd_test.h5: missing; the source folder needs shd_t"):
        import_published(RECIPE, tmp_path, tmp_path / "out.h5")
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


BROKEN = {
    "no labels": (replace("labels", None), "labels cannot be read"),
    "no speakers": (replace("extra/speaker", None), "extra/speaker cannot be read"),
    "labels too short": (replace("labels", np.zeros(3, int)), "not one value per sample"),
    "labels are text": (replace("labels", [b"a"] * 10), "labels is not of the published type"),
    "one label": (replace("labels", 3), "not one value per sample"),
    "flat times": (replace("spikes/times", np.zeros(10)), "spikes/times is not of the"),
    "label out of range": (set_first("labels", 20), "label 20 is out of range"),
    "negative label": (set_first("labels", -1), "labels: value -1 in sample shd_train/0"),
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
        import_published(RECIPE, tmp_path, tmp_path / "out.h5")
    assert message in str(caught.value)
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 still zipped", b"\x89HDF\r\n\x1a\n"])
def test_files_that_are_not_hdf5(tmp_path: Path, content: bytes) -> None:
    published(tmp_path)
    (tmp_path / "shd_train.h5").write_bytes(content)
    with pytest.raises(SnnbenchError, match=r"shd_train.h5: .* cannot be read"):
        import_published(RECIPE, tmp_path, tmp_path / "out.h5")


def test_unknown_name_is_a_usage_error(tmp_path: Path) -> None:
    published(tmp_path)
    with pytest.raises(UsageError, match="did you mean"):
        import_published(RECIPE, tmp_path, tmp_path / "out.h5", valid_groups=("0",))
