"""`snnbench data convert` as a process: killed, started twice, on folders of one's own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import soundfile

from snnbench.data_prep.store import SpikeDataset
from tests.commands import many_digits, snnbench, start, strict_json, wait_for
from tests.tiny_data import RATE_HZ, make_sample, vowel, write_dataset

pytestmark = pytest.mark.usefixtures("cochlea_tables")


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 recordings of 7 speakers: three shards."""
    return many_digits(tmp_path_factory.mktemp("many") / "sound", range(5, 12))


def convert(sound: Path, out: Path, workers: int) -> list[object]:
    source = ("--source", sound, "--out", out)
    return ["data", "convert", "hd", "--partial", *source, "--workers", workers, "--json"]


def result(out: Path) -> str:
    """Fingerprint of a checked file beside which nothing is left."""
    assert [p.name for p in out.parent.iterdir() if out.stem in p.name] == [out.name]
    with SpikeDataset.open(out) as dataset:
        dataset.check()
        return dataset.fingerprint


# --- killed


def hit(out: Path) -> str:
    """What a conversion was doing when it was killed, from what it left."""
    if out.exists():
        return "telling"
    if list(out.parent.glob(f".{out.stem}.*.tmp{out.suffix}")):
        return "assembling"
    if list(out.parent.glob("*.parts/*/.*.tmp.npz")):
        return "writing a shard"
    if list(out.parent.glob("*.parts/*/*.npz")):
        return "converting"
    return "beginning"


def to_its_end(sound: Path, out: Path, workers: int) -> tuple[int, str]:
    """Exit code of the command, and what it says where it fails."""
    process = start(*convert(sound, out, workers))
    _, err = process.communicate()
    return process.returncode, err if process.returncode else ""


def kill_until_done(sound: Path, out: Path, *, kills: int, seed: int) -> Counter[str]:
    """Start the command again and again and kill all its processes, at random moments of the time that
    it takes undisturbed; every finished file is compared and thrown away."""
    undisturbed = out.with_name("undisturbed.h5")
    begun = time.monotonic()
    assert to_its_end(sound, undisturbed, 1) == (0, "")
    span = time.monotonic() - begun
    expected = result(undisturbed)

    moments = random.Random(seed)
    hits: Counter[str] = Counter()
    while hits.total() - hits["finished"] < kills:
        workers = moments.choice([1, 2])
        process = start(
            *convert(sound, out, workers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            assert process.wait(timeout=moments.uniform(0.2, 0.9) * span) == 0
            where = "finished"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            where = hit(out)
        hits[where] += 1
        if where == "telling":  # the same command says that it is there, and clears away
            assert to_its_end(sound, out, workers)[0] == 1
        if out.exists():
            assert result(out) == expected
            out.unlink()
    for workers in (1, 2):
        assert to_its_end(sound, out, workers) == (0, "")
        assert result(out) == expected
        out.unlink()
    return hits


def test_killed_at_any_moment_it_goes_on(sound: Path, tmp_path: Path) -> None:
    kill_until_done(sound, tmp_path / "out.h5", kills=5, seed=1)


@pytest.mark.slow
def test_killed_at_fifty_moments_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = many_digits(tmp_path / "sound")
    hits = kill_until_done(sound, tmp_path / "out.h5", kills=50, seed=2)
    with capsys.disabled():
        print(f"\nkilled while {dict(hits)}")  # noqa: T201
    assert hits["converting"] + hits["writing a shard"] > 10


def test_parts_of_a_finished_file_are_cleared_and_newer_ones_stay(tmp_path: Path) -> None:
    out = write_dataset(tmp_path / "hd.h5")
    shard = tmp_path / "hd.h5.parts" / "plan" / "shard-00000.npz"
    shard.parent.mkdir(parents=True)
    shard.touch()
    again = ("data", "convert", "hd", "--source", tmp_path, "--out", out)
    for seconds, stays in ((10, True), (-10, False)):  # after the file, before it
        then = out.stat().st_mtime + seconds
        os.utime(shard, (then, then))
        refused = snnbench(*again)
        assert (refused.code, refused.out) == (1, "")
        assert "exists already; --force replaces it" in refused.err
        assert shard.exists() == stays
    assert [p.name for p in tmp_path.iterdir() if "hd" in p.name] == ["hd.h5"]


def test_workers_end_with_their_parent(sound: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    process = start(*convert(sound, out, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("*.parts/*/shard-*")), process)
    process.kill()  # this one only, as the system does without memory
    process.wait()
    deadline = time.monotonic() + 60
    while group_lives(process.pid):
        assert time.monotonic() < deadline, "a worker has outlived its parent"
        time.sleep(0.05)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_processes_at_once_make_one_file(sound: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    both = [start(*convert(sound, out, 1)) for _ in range(2)]
    ends = []
    for process in both:
        _, err = process.communicate()
        ends.append(process.returncode)
        if process.returncode:
            assert f"{out}: another process is making it at this moment" in err
    assert sorted(ends) in ([0, 0], [0, 1])
    result(out)


# --- folders of one's own


def words(folder: Path, n: int = 10) -> Path:
    for digit, word in enumerate(("left", "right")):
        (folder / word).mkdir(parents=True)
        for i in range(n):
            soundfile.write(folder / word / f"{i}.wav", vowel(i, digit, 0.05), RATE_HZ)
    return folder


def test_a_folder_of_words_needs_no_recipe(tmp_path: Path) -> None:
    own = ("data", "convert", "audio-folder", "--source", words(tmp_path / "words"))
    done = snnbench(*own, "--name", "words", "--preset", "article", "--workers", 1, "--json")
    assert done.code == 0, done.err
    facts = strict_json(done.out)
    assert facts["file"] == str(tmp_path / "data/words.h5")
    assert (facts["name"], facts["classes"]) == ("words", ["left", "right"])
    assert facts["recipe"]["cochlea"]["preset"] == "article"
    assert sum(s["samples"] for s in facts["splits"].values()) == 20
    assert "20 recordings, 1.0 s of sound" in done.err
    plotted = snnbench(
        *("data", "plot", facts["file"], "--source", tmp_path / "words"),
        *("--out", tmp_path / "raster.png"),
    )
    assert plotted.code == 0, plotted.err


def test_groups_of_a_table_are_held_out(tmp_path: Path) -> None:
    folder = words(tmp_path / "words", n=4)
    rows = [f"{word}/{i}.wav,{word},p{i}\n" for word in ("left", "right") for i in range(4)]
    (folder / "labels.csv").write_text("path,label,group\n" + "".join(rows))
    own = ("data", "convert", "audio-folder", "--source", folder, "--workers", 1, "--json")
    groups = ("--test-groups", "p2", "--valid-groups", "p0,p1")
    done = snnbench(*own, *groups)
    assert done.code == 0, done.err
    splits = strict_json(done.out)["splits"]
    assert {name: s["groups"] for name, s in splits.items()} == {
        "train": ["p3"],
        "valid": ["p0", "p1"],
        "test": ["p2"],
    }
    assert snnbench("data", "check", tmp_path / "data/audio-folder.h5").code == 0


def same_sound_twice(folder: Path) -> None:
    shutil.copyfile(folder / "left/0.wav", folder / "right/0.wav")


def no_sound(folder: Path) -> None:
    soundfile.write(folder / "left/3.wav", np.zeros(4800), RATE_HZ)


def too_few(folder: Path) -> None:
    for path in [*folder.glob("*/[2-9].wav")]:
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (same_sound_twice, "are the same recording; remove one, or leave all copies out with"),
        (no_sound, "left/3.wav: is silent"),
        (too_few, "no recording is left for the split"),
    ],
)
def test_a_folder_that_cannot_be_used_is_told(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = words(tmp_path / "words")
    spoil(folder)
    done = snnbench("data", "convert", "audio-folder", "--source", folder, "--workers", 1)
    assert (done.code, done.out) == (1, "")
    assert message in done.err
    assert not (tmp_path / "data/audio-folder.h5").exists()


def test_copies_are_left_out_where_the_user_says_so(tmp_path: Path) -> None:
    folder = words(tmp_path / "words")
    same_sound_twice(folder)
    own = ("data", "convert", "audio-folder", "--source", folder, "--workers", 1, "--json")
    done = snnbench(*own, "--duplicates", "drop")
    assert done.code == 0, done.err
    assert "audio-folder: 1 recordings, copies of others, are left out" in done.err
    assert strict_json(done.out)["recipe"]["split"]["duplicates"] == "drop"


# --- what is told


def test_a_data_set_without_a_source_is_made(tmp_path: Path) -> None:
    few = files("snnbench.data_prep").joinpath("recipes", "randman.toml").read_text()
    for n in ("800", "100"):
        few = few.replace(f"= {n}", "= 3")
    few = few.replace('"randman"\n', '"few"\n', 1).partition("[expected_samples]")[0]
    (tmp_path / "few.toml").write_text(few)
    done = snnbench("data", "get", tmp_path / "few.toml", "--workers", 1, "--json")
    assert done.code == 0, done.err
    facts = strict_json(done.out)
    assert facts["splits"]["train"]["samples"] == 30
    assert "s of sound" not in done.err
    out = tmp_path / "raster.svg"
    assert snnbench("data", "plot", facts["file"], "--out", out).code == 0
    assert "Characteristic frequency" not in out.read_text()


def test_many_speakers_are_not_all_shown(tmp_path: Path) -> None:
    groups = tuple(f"s{i:03d}" for i in range(100))
    samples = [make_sample(f"train-{i}", group=i) for i in range(98)]
    path = write_dataset(
        tmp_path / "hd.h5",
        {
            "train": samples,
            "valid": [make_sample("v", group=98)],
            "test": [make_sample("t", group=99)],
        },
        groups=groups,
    )
    shown = snnbench("data", "show", path)
    assert "s019 ... (98)" in " ".join(shown.out.split())
    assert "s020" not in shown.out
    assert (
        len(strict_json(snnbench("data", "show", path, "--json").out)["splits"]["train"]["groups"])
        == 98
    )


def test_resumed_shards_do_not_count_into_the_speed(sound: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.h5"
    process = start(*convert(sound, out, 1))
    wait_for(lambda: len(list(tmp_path.glob("*.parts/*/shard-*"))) >= 2, process)
    process.kill()
    process.communicate()
    code, err = told(sound, out)
    assert code == 0
    [line] = [line for line in err.splitlines() if line.startswith("converting: 70/70")][-1:]
    speed = float(line.partition("file/s")[0].rpartition(" ")[2])
    minutes, seconds = line.partition("[")[2].partition("<")[0].split(":")
    # six of the seventy were made, in a time that is told in whole seconds
    assert 6 / (60 * int(minutes) + int(seconds) + 1) <= speed
    if int(seconds):
        assert speed <= 6 / (60 * int(minutes) + int(seconds)) + 0.01


def told(sound: Path, out: Path) -> tuple[int, str]:
    done = snnbench(*convert(sound, out, 1))
    return done.code, done.err
