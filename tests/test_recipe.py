"""A recipe of somebody's own is input from outside: what does not fit is named before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from snnbench.data_prep.convert import convert
from snnbench.data_prep.recipe import load_recipe
from snnbench.errors import UsageError

GOOD = """
name = "words"
title = "Words"
summary = "Two words"
licence = "CC0-1.0"
citation = "Ourselves (2026)"
classes = ["yes", "no"]
n_units = 64
duration_s = 1.0

[source]
kind = "audio-folder"
about = "a folder"

[audio]
[cochlea]

[split]
test_groups = ["a"]
valid_groups = ["b"]

[download]
mirrors = ["https://example.org/"]

[[download.files]]
target = "words"
packed = [{ name = "words.tar.gz" }]
"""


def written(folder: Path, found: str = "", instead: str = "") -> str:
    """Path of the recipe with one text replaced by another."""
    path = folder / "words.toml"
    path.write_text(GOOD.replace(found, instead) if found else GOOD)
    return str(path)


def test_the_recipe_that_is_spoilt_below_is_good(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path)).name == "words"


@pytest.mark.parametrize(
    ("found", "instead", "named"),
    [
        # names become names of files
        ('name = "words"', 'name = "../words"', "name: .*'../words'"),
        ('name = "words"', 'name = ".."', "name: .*'..'"),
        ('name = "words"', 'name = ""', "name: .*''"),
        ('target = "words"', 'target = "../words"', "download.files.0.target: .*'../words'"),
        ('target = "words"', 'target = ".."', "download.files.0.target"),
        ('"words.tar.gz"', '"words.tar.gz", hash = "abc"', "packed.0.hash: .*'abc'"),
        ("n_units = 64", "n_units = 65537", "n_units: .*65536.*found 65537"),
        ('["yes", "no"]', '["yes", "yes"]', "classes: 'yes' is there twice"),
        ('["yes", "no"]', '["yes"]', "classes: one class"),
        ("[cochlea]", "[cochlea]\nsede = 1", "cochlea.sede.*did you mean .*cochlea.seed"),
        (
            "[cochlea]",
            "[cochlea]\n[latency]\ntau_s = 0.02\nthreshold = 0.2",
            r"\[cochlea\] and \[latency\]",
        ),
        ("n_units", "n_unit", "did you mean .*n_units"),
        ('licence = "CC0-1.0"', "", r"words\.toml: licence: is missing$"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, found: str, instead: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        load_recipe(written(tmp_path, found, instead))


def test_no_toml_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"words\.toml: cannot be read as TOML"):
        load_recipe(written(tmp_path, "[source]", "[source"))
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read"):
        load_recipe(str(tmp_path / "none.toml"))


def test_an_unknown_kind_of_source_suggests_those_there_are(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "audio-folder", "audio-folders"))
    with pytest.raises(UsageError, match=r"words: 'audio-folders'; did you mean audio-folder"):
        convert(recipe, tmp_path, tmp_path / "out.h5", workers=1)
