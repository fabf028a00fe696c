"""Another split of a converted file: byte for byte what a conversion makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from snnbench.data_prep import convert as conversion
from snnbench.data_prep import resplit as resplitting
from snnbench.data_prep.recipe import Recipe, load_recipe
from snnbench.data_prep.resplit import HeldOut, deal_folds, resplit
from snnbench.data_prep.store import SpikeDataset
from tests.commands import Answer, snnbench, strict_json
from tests.tiny_data import make_sample, make_samples, tiny_recipe, write_dataset, write_digits

pytestmark = pytest.mark.usefixtures("cochlea_tables")

SPEAKERS = ("00", "01", "02", "03", "04")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten recordings of five speakers."""
    folder = tmp_path_factory.mktemp("five-speakers")
    write_digits(folder, speakers=range(5))
    return folder


def convert(recordings: Path, out: Path, held_out: HeldOut, recipe: Recipe | None = None) -> None:
    conversion.convert(
        recipe or tiny_recipe(),
        recordings,
        out,
        workers=1,
        test_groups=held_out.test,
        valid_groups=held_out.valid,
        partial=True,  # two of the recipe's twenty classes
    )


@pytest.fixture(scope="session")
def original(recordings: Path, tmp_path_factory: pytest.TempPathFactory, tables: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNNBENCH_DATA", str(tables.parent))
        out = tmp_path_factory.mktemp("original") / "hd.h5"
        convert(recordings, out, HeldOut(("02",), ("04",)))
    return out


def split(file: Path, out: Path, *options: object) -> Answer:
    return snnbench("data", "split", file, "--out", out, *options)


def groups(test: str, valid: str) -> tuple[str, ...]:
    return ("--test-groups", test, "--valid-groups", valid)


def content(path: Path) -> dict[str, Any]:
    """All that a whole file says."""
    with SpikeDataset.open(path) as dataset:
        dataset.check()
        sources = {name: dataset.split(name).sources() for name in dataset.splits}
        return {"header": dataset.header, "identity": dataset.identity, "sources": sources}


@pytest.mark.parametrize(
    "held_out",
    [
        HeldOut(("00",), ("01",)),
        HeldOut(("04", "02"), ("03",)),  # in the order in which they are named
        HeldOut(("03",), ("00", "02", "04")),
    ],
)
def test_it_is_what_a_conversion_makes(
    recordings: Path, original: Path, tmp_path: Path, held_out: HeldOut
) -> None:
    convert(recordings, tmp_path / "converted.h5", held_out)
    with SpikeDataset.open(original) as dataset:
        resplit(dataset, tmp_path / "split.h5", held_out)
    assert content(tmp_path / "split.h5") == content(tmp_path / "converted.h5")
    assert content(tmp_path / "split.h5") != content(original)
    assert {p.name for p in tmp_path.iterdir()} == {"converted.h5", "data", "split.h5"}


def test_takes_that_tested_are_held_out_by_speaker(tmp_path: Path) -> None:
    """Of a rule that is not one of groups, nothing stays."""
    recipe = load_recipe("fsdd")
    names = [
        f"{d}_{who}_{take}" for d in (0, 1) for who in ("ann", "bo", "carl") for take in (2, 10)
    ]
    samples = {
        name: make_sample(name, label=int(name[0]), group=i // 2 % 3)
        for i, name in enumerate(names)
    }
    processing = recipe.processing_json({"version": 1})
    write_dataset(
        tmp_path / "fsdd.h5",
        {
            "test": [samples[n] for n in sorted(names) if n.endswith("_2")],
            "train": [samples[n] for n in sorted(names) if n.endswith("_10")],
        },
        classes=recipe.classes,
        groups=("ann", "bo", "carl"),
        recipe=processing,
        recipe_sha256=resplitting.sha256_text(processing),
    )
    with SpikeDataset.open(tmp_path / "fsdd.h5") as dataset:
        resplit(dataset, tmp_path / "out.h5", HeldOut(("bo",), ("carl",)))
    with SpikeDataset.open(tmp_path / "out.h5") as dataset:
        dataset.check()
        # runs of one sample, in the order of names: 10 stands before 2
        assert dataset.read("train").source_ids == ["0_ann_10", "0_ann_2", "1_ann_10", "1_ann_2"]
        assert dataset.group_names("test") == ["bo"]
        rule = json.loads(dataset.header.recipe)["split"]
        assert "rule" not in rule
        assert (rule["test_groups"], rule["valid_groups"]) == (["bo"], ["carl"])


def test_blocks_of_any_size_make_the_same_file(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = HeldOut(("00",), ("01",))
    reports: list[tuple[int, int]] = []
    with SpikeDataset.open(original) as dataset:
        total = sum(dataset.n_spikes(split) for split in dataset.splits)
        resplit(dataset, tmp_path / "one.h5", held_out)
        monkeypatch.setattr(resplitting, "_AT_ONCE", 1)
        resplit(dataset, tmp_path / "many.h5", held_out, progress=lambda *at: reports.append(at))
    assert content(tmp_path / "one.h5") == content(tmp_path / "many.h5")
    assert len(reports) == 10  # of a sample each
    assert reports[-1] == (total, total)


def test_the_command_writes_and_tells(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.h5"
    done = split(original, out, *groups("00, 01", "03"), "--json")
    assert done.code == 0, done.err
    facts = strict_json(done.out)
    assert {name: s["groups"] for name, s in facts["splits"].items()} == {
        "train": ["02", "04"],
        "valid": ["03"],
        "test": ["00", "01"],
    }
    assert facts["recipe"]["split"]["test_groups"] == ["00", "01"]

    assert split(original, out, *groups("04", "03")).code == 1
    assert split(original, out, *groups("04", "03"), "--force").code == 0
    with SpikeDataset.open(out) as dataset:
        assert dataset.group_names("test") == ["04"]
        # and of what was split a split can be made
    assert split(out, tmp_path / "back.h5", *groups("00,01", "03")).code == 0
    assert content(tmp_path / "back.h5")["identity"].fingerprint == facts["fingerprint"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (groups("00", "77"), 2, r"unknown validation group '77'; known: 00, 01, 02, 03, 04"),
        (groups("0", "01"), 2, r"unknown test group '0'; did you mean 0"),
        (groups("00,01", "01"), 2, r"01 is both a test and a validation group"),
        (groups("00,01,02", "03,04"), 2, r"none is left to train"),
        (("--test-groups", "00"), 2, r"both --test-groups and --valid-groups, or take --folds"),
        (groups(",", "01"), 2, r"both --test-groups and --valid-groups"),
        (("--folds", "3", "--test-groups", "00"), 2, r"drop --test-groups"),
        (("--folds", "2"), 2, r"--folds 2: at least 3, .* most as many as groups, 5"),
        (("--folds", "6"), 2, r"--folds 6: at least 3, .* most as many as groups, 5"),
    ],
)
def test_wrong_groups_are_named(
    original: Path, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    done = split(original, tmp_path / "out.h5", *options)
    assert (done.code, done.out) == (code, "")
    assert re.search(message, done.err), done.err
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_the_file_itself_and_folders_are_not_written_over(original: Path, tmp_path: Path) -> None:
    before = original.read_bytes()
    for out in (original, original.parent / ".." / original.parent.name / original.name):
        done = split(original, out, *groups("00", "01"), "--force")
        assert (done.code, "is the file that is read" in done.err) == (2, True)
    assert original.read_bytes() == before
    done = split(original, tmp_path, *groups("00", "01"))
    assert (done.code, "is a folder" in done.err) == (2, True)
    assert split(tmp_path / "none.h5", tmp_path / "out.h5", *groups("00", "01")).code == 1


def header_of(recipe: Recipe) -> dict[str, Any]:
    processing = recipe.processing_json({})
    return {"recipe": processing, "recipe_sha256": resplitting.sha256_text(processing)}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({}, r"its recipe names no source and split"),
        (header_of(load_recipe("shd")), r"published spikes, whose test file is the test split"),
        (header_of(load_recipe("gsc")), r"source \(speech-commands\) whose order .*--test-groups"),
        (header_of(load_recipe("smnist")), r"source \(idx-images\) whose order"),
        (
            header_of(
                tiny_recipe(split=tiny_recipe().split.model_copy(update={"duplicates": "drop"}))
            ),
            r"may lack copies of recordings",
        ),
        (header_of(tiny_recipe()), r"train is not in the order of names"),
    ],
)
def test_what_cannot_be_split_as_a_conversion_would_is_refused(
    tmp_path: Path, header: dict[str, Any], message: str
) -> None:
    write_dataset(tmp_path / "in.h5", **header)
    done = split(tmp_path / "in.h5", tmp_path / "out.h5", *groups("00", "01"))
    assert (done.code, done.out) == (1, "")
    assert re.search(message, done.err), done.err
    assert not (tmp_path / "out.h5").exists()


def test_data_without_groups_or_with_a_class_missing_are_refused(tmp_path: Path) -> None:
    def refused(message: str, splits: Any = None, **header: Any) -> None:
        write_dataset(tmp_path / "in.h5", splits, **header_of(tiny_recipe()), **header)
        done = split(tmp_path / "in.h5", tmp_path / "out.h5", *groups("00", "01"))
        assert (done.code, message in done.err) == (1, True), done.err

    one = {name: make_samples(name, 5, 0) for name in ("train", "valid", "test")}
    refused("knows no groups", one, groups=("all",))
    labels = {"00": (0, 1), "01": (0,), "02": (0, 1)}
    samples = [
        make_sample(f"{who}-{label}", label=label, group=int(who))
        for who, of_one in labels.items()
        for label in of_one
    ]
    refused("no recording of 'class 1' would be in the split valid", {"train": samples})


def test_damaged_data_are_refused(original: Path, tmp_path: Path) -> None:
    """A new file has a fingerprint of its own, which would prove what is wrong."""
    import h5py

    copy = tmp_path / "copy.h5"
    copy.write_bytes(original.read_bytes())
    with h5py.File(copy, "r+") as file:
        file["train/times"][0] = 0.0
    done = split(copy, tmp_path / "out.h5", *groups("00", "01"))
    assert (done.code, "does not match the one in the file" in done.err) == (1, True)
    assert not (tmp_path / "out.h5").exists()


# --- folds


@pytest.mark.parametrize(("n_groups", "n"), [(12, 5), (3, 3), (10, 10), (11, 4)])
def test_in_folds_every_group_tests_once_and_validates_once(n_groups: int, n: int) -> None:
    names = [f"{i:02d}" for i in reversed(range(n_groups))]
    folds = deal_folds(names, n)
    assert sorted(g for fold in folds for g in fold.test) == sorted(names)
    assert sorted(g for fold in folds for g in fold.valid) == sorted(names)
    for fold, after in zip(folds, [*folds[1:], folds[0]], strict=True):
        assert fold.valid == after.test
        assert set(fold.test) | set(fold.valid) < set(names)
    sizes = {len(fold.test) for fold in folds}
    assert max(sizes) - min(sizes) <= 1
    assert folds[0].test[:2] == tuple(sorted(names)[::n][:2])


def test_folds_are_written_once(original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folds"
    first = split(original, folder, "--folds", "3", "--json")
    assert first.code == 0, first.err
    paths = sorted(folder.iterdir())
    assert [p.name for p in paths] == ["fold-0.h5", "fold-1.h5", "fold-2.h5"]
    told = [facts["splits"]["test"]["groups"] for facts in strict_json(first.out)]
    assert told == [["00", "03"], ["01", "04"], ["02"]]

    # one was not made yet when it was stopped
    made = {p: p.stat().st_mtime_ns for p in paths}
    paths[1].unlink()
    again = split(original, folder, "--folds", "3", "--json")
    assert again.out == first.out
    assert f"{paths[0]} is there already" in again.err
    changed = {p for p in paths if p.stat().st_mtime_ns != made[p]}
    assert changed == {paths[1]}
    text = split(original, folder, "--folds", "3").out
    assert re.search(r"fold-2\.h5 +4 +4 +2 +00 03 +02 *\n", text), text

    # files of other folds are not taken for these, nor replaced
    other = split(original, folder, "--folds", "5")
    assert (other.code, "is not this fold of" in other.err) == (1, True)
    assert len(list(folder.iterdir())) == 3
    assert split(original, folder, "--folds", "5", "--force").code == 0
    assert split(original, paths[0], "--folds", "5").code == 2
