"""Conversion: the same for any number of workers, resumable anywhere, bad input named."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from snnbench.data_prep import convert as conversion
from snnbench.data_prep.cochlea_encoder import CochleaEncoder, cochlea_parameters
from snnbench.data_prep.recipe import AudioSpec, CochleaSpec, load_recipe
from snnbench.data_prep.shards import Progress, Summary
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError, UsageError
from tests.tiny_data import RATE_HZ, digit_name, tiny_recipe, vowel, write_digits

pytestmark = pytest.mark.usefixtures("cochlea_tables")


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CochleaEncoder, "per_shard", 2)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings of three speakers: three shards."""
    folder = tmp_path_factory.mktemp("recordings")
    write_digits(folder)
    return folder


@pytest.fixture
def source(recordings: Path, tmp_path: Path) -> Path:
    """A copy of the six recordings that a test may spoil."""
    return Path(shutil.copytree(recordings, tmp_path / "source"))


def run(source: Path, out: Path, **options: Any) -> Summary:
    recipe = options.pop("recipe", None) or tiny_recipe()
    # two of the recipe's twenty classes
    return conversion.convert(recipe, source, out, **{"workers": 1, "partial": True, **options})


def fingerprint(path: Path) -> str:
    """The fingerprint of a checked file that stands alone: no parts, no temporaries."""
    assert sorted(p.name for p in path.parent.iterdir() if path.stem in p.name) == [path.name]
    with SpikeDataset.open(path) as dataset:
        dataset.check()
        return dataset.fingerprint


def shards(out: Path) -> list[Path]:
    return sorted(out.with_name(f"{out.name}.parts").glob("*/shard-*.npz"))


class Stop(Exception):
    """Ends a conversion from its progress callback."""


def stop_after(files: int) -> Callable[[Progress], None]:
    def progress(p: Progress) -> None:
        if p.done >= files:
            raise Stop

    return progress


@pytest.fixture(scope="session")
def expected(recordings: Path, tmp_path_factory: pytest.TempPathFactory, tables: Path) -> str:
    """Fingerprint of an undisturbed conversion."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNNBENCH_DATA", str(tables.parent))
        out = tmp_path_factory.mktemp("expected") / "out.h5"
        run(recordings, out)
    return fingerprint(out)


def test_a_file_holds_what_the_recipe_says(recordings: Path, tmp_path: Path) -> None:
    reports: list[Progress] = []
    summary = run(recordings, tmp_path / "out.h5", progress=reports.append)
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        dataset.check()
        assert (dataset.header.name, dataset.header.n_units) == ("hd", 64)
        assert dataset.header.groups == ("00", "01", "02")
        for split, group in (("train", "00"), ("valid", "01"), ("test", "02")):
            part = dataset.read(split)
            assert part.source_ids == [digit_name(int(group), d) for d in (0, 1)]
            assert part.labels.tolist() == [10, 11]
            assert dataset.group_names(split) == [group]
            assert (np.diff(part.offsets) > 20).all()
        n_spikes = sum(dataset.n_spikes(split) for split in dataset.splits)
        assert '"ramp_s":0.03' in dataset.header.recipe
    assert reports[-1] == (6, 6, pytest.approx(0.6), n_spikes, 0, 0.0)
    assert [r.done for r in reports] == [0, 2, 4, 6]
    assert (summary.samples, summary.spikes) == (6, n_spikes)
    assert summary.cpu_s > 0
    assert summary.peak_worker_bytes > 2**20


def test_two_workers_make_the_same_file(recordings: Path, tmp_path: Path, expected: str) -> None:
    run(recordings, tmp_path / "out.h5", workers=2)
    assert fingerprint(tmp_path / "out.h5") == expected


def test_shards_of_another_size_make_the_same_file(
    recordings: Path, tmp_path: Path, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CochleaEncoder, "per_shard", 4)
    run(recordings, tmp_path / "out.h5")
    assert fingerprint(tmp_path / "out.h5") == expected


# --- stopped and called again


def test_a_stopped_conversion_goes_on(recordings: Path, tmp_path: Path, expected: str) -> None:
    out = tmp_path / "out.h5"
    with pytest.raises(Stop):
        run(recordings, out, progress=stop_after(4))
    assert not out.exists()
    done = {path: path.stat().st_mtime_ns for path in shards(out)}
    assert len(done) == 2

    seen: list[tuple[int, int, dict[Path, int]]] = []

    def progress(p: Progress) -> None:
        seen.append((p.done, p.resumed, {path: path.stat().st_mtime_ns for path in done}))

    run(recordings, out, progress=progress)
    # the finished shards were not touched
    assert seen == [(2, 2, done), (4, 4, done), (4, 4, done), (6, 4, done)]
    assert fingerprint(out) == expected


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "other"])
def test_a_damaged_shard_is_made_again(
    recordings: Path, tmp_path: Path, expected: str, damage: str
) -> None:
    out = tmp_path / "out.h5"
    with pytest.raises(Stop):
        run(recordings, out, progress=stop_after(4))
    first, second = shards(out)
    content = bytearray(first.read_bytes())
    if damage == "flipped":
        content[300] ^= 1
    first.write_bytes(
        {
            "truncated": bytes(content[:-50]),
            "flipped": bytes(content),
            "empty": b"",
            "other": b"PK\x05\x06" + bytes(18),  # an archive without members
        }[damage]
    )
    run(recordings, out)
    assert second.parent == first.parent
    assert fingerprint(out) == expected


def test_a_changed_source_makes_its_shards_anew(
    source: Path, tmp_path: Path, expected: str
) -> None:
    out = tmp_path / "out.h5"
    with pytest.raises(Stop):
        run(source, out, progress=stop_after(4))
    stale = shards(out)[0].parent
    path = source / f"{digit_name(0, 0)}.wav"
    soundfile.write(path, vowel(0, 5), RATE_HZ, subtype="PCM_16")
    with pytest.raises(Stop):
        run(source, out, progress=stop_after(2))
    assert {p.parent for p in shards(out)} > {stale}
    run(source, out)
    changed = fingerprint(out)
    assert changed != expected
    soundfile.write(path, vowel(0, 0), RATE_HZ, subtype="PCM_16")
    run(source, tmp_path / "back.h5")
    assert fingerprint(tmp_path / "back.h5") == expected


def test_another_seed_or_constant_makes_other_spikes_and_another_recipe(
    recordings: Path, tmp_path: Path, expected: str
) -> None:
    prints = {expected}
    recipes = set()
    for i, cochlea in enumerate(
        (CochleaSpec(), CochleaSpec(seed=1), CochleaSpec(constants={"n_fibres": 20}))
    ):
        out = tmp_path / f"{i}.h5"
        run(recordings, out, recipe=tiny_recipe(cochlea=cochlea))
        prints.add(fingerprint(out))
        with SpikeDataset.open(out) as dataset:
            recipes.add(dataset.identity.recipe_sha256)
    assert len(prints) == len(recipes) == 3


def test_other_groups_make_another_split_of_the_same_spikes(
    recordings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.h5"
    run(recordings, out, test_groups=["00"], valid_groups=["02"])
    with SpikeDataset.open(out) as dataset:
        assert [dataset.group_names(s) for s in dataset.splits] == [["01"], ["02"], ["00"]]
        assert '"test_groups":["00"],' in dataset.header.recipe


def test_the_exact_mode_makes_spikes_of_its_own(recordings: Path, tmp_path: Path) -> None:
    exact = CochleaSpec(mode="exact")
    run(recordings, tmp_path / "exact.h5", recipe=tiny_recipe(cochlea=exact))
    run(recordings, tmp_path / "fast.h5")
    with (
        SpikeDataset.open(tmp_path / "exact.h5") as one,
        SpikeDataset.open(tmp_path / "fast.h5") as other,
    ):
        one.check()
        assert '"algorithm":"exact/1"' in one.header.recipe
        assert '"algorithm":"fast/1"' in other.header.recipe
        assert one.fingerprint != other.fingerprint
        assert one.n_spikes("train") == pytest.approx(other.n_spikes("train"), rel=0.1)
        first, second = (one.read("train").sample(i)[0] for i in (0, 1))
        assert not np.array_equal(first[:20], second[:20])  # one seed, another key


# --- what is there


def test_a_class_missing_from_a_split_is_refused_before_the_work(
    recordings: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        SnnbenchError, match="no recording of 'zero' and 17 more classes in the spl"
    ):
        run(recordings, tmp_path / "out.h5", partial=False)
    assert not list(tmp_path.glob("*out*"))


def test_missing_recordings_are_told(recordings: Path, tmp_path: Path) -> None:
    told: list[str] = []
    run(recordings, tmp_path / "out.h5", tell=told.append)
    assert told == ["6 of 10420 recordings"]


def test_a_recording_that_is_there_twice(source: Path, tmp_path: Path) -> None:
    first, copy = (source / f"{digit_name(s, 0)}.wav" for s in (0, 2))
    shutil.copyfile(first, copy)
    with pytest.raises(SnnbenchError) as caught:
        run(source, tmp_path / "out.h5")
    assert f"{copy.stem} (test) and {first.stem} (train) are the same" in str(caught.value)

    told: list[str] = []
    split = tiny_recipe().split.model_copy(update={"duplicates": "drop"})
    run(source, tmp_path / "out.h5", recipe=tiny_recipe(split=split), tell=told.append)
    assert "1 recordings, copies of others, are left out" in told
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        dataset.check()
        assert '"duplicates":"drop"' in dataset.header.recipe
        assert [dataset.n_samples(s) for s in dataset.splits] == [1, 2, 2]
        assert copy.stem in dataset.read("test").source_ids


def test_a_recording_without_a_sound_has_no_spikes_where_the_recipe_says_so(
    source: Path, tmp_path: Path
) -> None:
    soundfile.write(source / f"{digit_name(0, 1)}.wav", np.zeros(4800), RATE_HZ)
    run(source, tmp_path / "out.h5", recipe=tiny_recipe(audio=AudioSpec(silent="no-spikes")))
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        dataset.check()
        assert np.diff(dataset.read("train").offsets)[1] == 0


def folder_of_words(folder: Path) -> Path:
    """Two words of ten nameless speakers, at 16 kHz and in stereo."""
    for digit, word in enumerate(("left", "right")):
        (folder / word).mkdir(parents=True)
        for i in range(10):
            sound = vowel(i, digit)[::3]
            sound = np.stack([sound, 0.5 * sound], axis=1)
            soundfile.write(folder / word / f"{i}.wav", sound, RATE_HZ // 3, subtype="PCM_16")
    return folder


def test_a_folder_of_ones_own_without_groups(tmp_path: Path) -> None:
    own = load_recipe("audio-folder").model_copy(update={"n_units": 64})
    conversion.convert(own, folder_of_words(tmp_path / "words"), tmp_path / "out.h5", workers=1)
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        dataset.check()
        assert dataset.header.classes == ("left", "right")
        assert dataset.header.groups == ("all",)
        assert dataset.splits == ["train", "valid", "test"]
        # one name in both folders is in one split
        for split in dataset.splits:
            names = [name.partition("/")[2] for name in dataset.read(split).source_ids]
            assert sorted(names) == sorted(2 * list(set(names)))


def test_speech_commands_at_16_khz(tmp_path: Path) -> None:
    """The layout of the archive, with its lists, a silent recording and a copy."""
    recipe = load_recipe("gsc").model_copy(update={"n_units": 64})
    speakers = ("8b775397", "2aa787cf", "01bb6a2a")  # validation, test, training
    for n, word in enumerate(("bed", "cat")):
        (tmp_path / "gsc" / word).mkdir(parents=True)
        for m, speaker in enumerate(speakers):
            path = tmp_path / "gsc" / word / f"{speaker}_nohash_0.wav"
            soundfile.write(path, vowel(m, n)[::3], 16_000, subtype="PCM_16")
    copy = tmp_path / "gsc/cat" / "01bb6a2a_nohash_1.wav"
    shutil.copyfile(copy.with_name("01bb6a2a_nohash_0.wav"), copy)
    soundfile.write(copy.with_name("01bb6a2a_nohash_2.wav"), np.zeros(16_000), 16_000)
    (tmp_path / "gsc/validation_list.txt").write_text("cat/8b775397_nohash_0.wav\n")
    (tmp_path / "gsc/testing_list.txt").write_text("bed/2aa787cf_nohash_0.wav\n")
    told: list[str] = []
    run(tmp_path / "gsc", tmp_path / "out.h5", recipe=recipe, tell=told.append)
    assert told == [
        "8 of 105829 recordings",
        "1 recordings, copies of others, are left out",
    ]
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        dataset.check()
        assert [dataset.group_names(s) for s in dataset.splits] == [
            [s] for s in ("01bb6a2a", *speakers[:2])
        ]
        assert dataset.n_samples("train") == 3
        assert len(dataset.header.classes) == 35


# --- one at a time


def test_leftovers_of_a_killed_writer_are_cleared_and_nothing_else(
    recordings: Path, tmp_path: Path, expected: str
) -> None:
    out = tmp_path / "out.h5"
    with pytest.raises(Stop):
        run(recordings, out, progress=stop_after(2))
    plan = shards(out)[0].parent
    mine = [tmp_path / ".out.a1_b2c3d.tmp.h5", plan / ".shard-00001.a1b2c3d4.tmp.npz"]
    # of other files, whose writers may well be alive
    others = [tmp_path / ".out.b.a1b2c3d4.tmp.h5", tmp_path / ".other.a1b2c3d4.tmp.h5"]
    for path in mine + others:
        path.touch()
    run(recordings, out)
    assert not any(path.exists() for path in mine)
    for path in others:
        path.unlink()  # they are still there
    assert fingerprint(out) == expected


def test_a_lock_of_a_killed_process_stops_nobody(
    recordings: Path, tmp_path: Path, expected: str
) -> None:
    (tmp_path / ".out.h5.lock").touch()
    run(recordings, tmp_path / "out.h5")
    assert fingerprint(tmp_path / "out.h5") == expected


def test_a_second_conversion_into_the_same_file_is_refused(
    recordings: Path, tmp_path: Path, expected: str
) -> None:
    out = tmp_path / "out.h5"

    def second(p: Progress) -> None:
        with pytest.raises(SnnbenchError, match=r"out\.h5: another process is making it"):
            run(recordings, out)

    run(recordings, out, progress=second)
    assert fingerprint(out) == expected


# --- what goes wrong


def spoil(path: Path, sound: np.ndarray, rate: int = RATE_HZ, subtype: str = "PCM_16") -> None:
    soundfile.write(path, sound, rate, subtype=subtype)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "stereo": (lambda p: spoil(p, np.stack([vowel(0, 0)] * 2, axis=1)), "has 2 channels"),
    "rate": (lambda p: spoil(p, vowel(0, 0), 44_100), "is at 44100 Hz, 48000 Hz is wanted"),
    "silent": (lambda p: spoil(p, np.zeros(4800)), "is silent"),
    "empty": (lambda p: spoil(p, np.zeros(0)), "holds 0 samples"),
    "nan": (lambda p: spoil(p, np.full(4800, np.nan), subtype="FLOAT"), "holds NaN or infinite"),
    "no bytes": (lambda p: p.write_bytes(b""), "cannot be read as audio"),
    "text": (lambda p: p.write_text("not a sound"), "cannot be read as audio"),
    "half": (lambda p: p.write_bytes(p.read_bytes()[:30]), "cannot be read as audio"),
    "cut off": (lambda p: p.write_bytes(p.read_bytes()[:3000]), "is cut off: holds 2956 of"),
    "long": (lambda p: spoil(p, np.full(61 * RATE_HZ, 0.1)), "sound of 61.0 s: the cochlea"),
    "folder": (make_folder, "cannot read: Is a directory"),
}


@pytest.mark.parametrize(("name", "workers"), [*((name, 1) for name in SPOILT), ("silent", 2)])
def test_a_recording_that_cannot_be_used_is_named(
    source: Path, tmp_path: Path, name: str, workers: int
) -> None:
    change, message = SPOILT[name]
    path = source / f"{digit_name(1, 0)}.wav"
    change(path)
    strict = tiny_recipe(audio=AudioSpec())
    with pytest.raises(SnnbenchError) as caught:
        run(source, tmp_path / "out.h5", recipe=strict, workers=workers)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out.h5").exists()

    path.rmdir() if path.is_dir() else path.unlink()
    spoil(path, vowel(1, 0))
    run(source, tmp_path / "out.h5", recipe=strict)
    fingerprint(tmp_path / "out.h5")


def test_an_unparsable_name_and_a_missing_folder_are_named(source: Path, tmp_path: Path) -> None:
    (source / "hello.wav").touch()
    with pytest.raises(SnnbenchError, match=r"hello\.wav: the name does not parse"):
        run(source, tmp_path / "out.h5")
    with pytest.raises(SnnbenchError, match="nowhere: no such source folder"):
        run(tmp_path / "nowhere", tmp_path / "out.h5")
    assert not list(tmp_path.glob("out*"))


def test_a_place_that_cannot_be_written_is_named(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SnnbenchError, match=r"file/out\.h5.* cannot write"):
        run(recordings, tmp_path / "file/out.h5")


def test_published_spikes_are_not_converted_from_sound(tmp_path: Path) -> None:
    with pytest.raises(SnnbenchError, match="shd: names no way to make spikes"):
        run(tmp_path, tmp_path / "out.h5", recipe=load_recipe("shd"))


def test_unknown_presets_and_constants_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown cochlea preset 'sdh'; did you mean shd"):
        cochlea_parameters(CochleaSpec(preset="sdh"), 64)
    with pytest.raises(UsageError, match=r"did you mean cochlea\.n_fibres"):
        cochlea_parameters(CochleaSpec(constants={"n_fibre": 3}), 64)
    constants: dict[str, float | int | str | None] = {"bushy_cell.tau_mem_s": 2e-3, "ramp_s": None}
    changed = cochlea_parameters(CochleaSpec(constants=constants), 64)
    assert (changed.n_channels, changed.ramp_s, changed.bushy_cell.tau_mem_s) == (64, None, 2e-3)
    assert changed.bushy_cell.refractory_s == 1e-3


class _Killer(int):
    """A seed that kills the process in which it is unpickled, as the system does without memory."""

    def __reduce__(self) -> Any:
        return os.kill, (_Parent(), signal.SIGKILL)


class _Parent:
    """Unpickles as the number of the process that unpickles it."""

    def __reduce__(self) -> Any:
        return os.getpid, ()


def test_a_killed_worker_is_told_and_its_finished_parts_kept(
    recordings: Path, tmp_path: Path, expected: str
) -> None:
    out = tmp_path / "out.h5"
    cochlea = CochleaSpec().model_copy(update={"seed": _Killer()})
    with pytest.raises(SnnbenchError, match=r"worker was killed .out of memory.*fewer --workers"):
        run(recordings, out, workers=2, recipe=tiny_recipe(cochlea=cochlea))
    assert not out.exists()
    run(recordings, out, workers=2)
    assert fingerprint(out) == expected
