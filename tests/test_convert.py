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
from snnbench.data_prep.convert import Progress, Summary
from snnbench.data_prep.encoders import CochleaEncoder, cochlea_parameters
from snnbench.data_prep.recipe import AudioSpec, CochleaSpec, load_recipe
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
    return conversion.convert(recipe, source, out, **{"workers": 1, **options})


def fingerprint(path: Path) -> str:
    """The fingerprint of a checked file that stands alone: no parts, no temporaries."""
    assert [p.name for p in path.parent.iterdir() if path.stem in p.name] == [path.name]
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
    assert reports[-1] == (6, 6, pytest.approx(0.6), n_spikes)
    assert [r.done for r in reports] == [2, 4, 6]
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

    seen: list[tuple[int, dict[Path, int]]] = []

    def progress(p: Progress) -> None:
        seen.append((p.done, {path: path.stat().st_mtime_ns for path in done}))

    run(recordings, out, progress=progress)
    assert seen == [(2, done), (4, done), (6, done)]  # the finished shards were not touched
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
    constants: dict[str, float | int | None] = {"bushy_cell.tau_mem_s": 2e-3, "ramp_s": None}
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
