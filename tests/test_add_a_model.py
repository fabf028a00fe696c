"""docs/add-a-model.md, followed to the letter on a tiny data set, and what own models are refused for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from snnbench.errors import UsageError
from snnbench.spec import load_model, make_run_spec, model_names
from tests.commands import ROOT, snnbench, strict_json
from tests.tiny_data import write_dataset

PAGE = (ROOT / "docs" / "add-a-model.md").read_text("utf-8")
TOML, SHELL = (re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S) for kind in ("toml", "sh"))
LEAST = 'name = "{name}"\nsummary = "s"\nsource = "t"\n[model]\n[train]\n'


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the page's commands run in, with the file and the data they name."""
    (tmp_path / "two-speeds.toml").write_text(TOML[0], "utf-8")
    write_dataset(tmp_path / "hd.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("own")
def test_the_page_works() -> None:
    commands = [shlex.split(line) for line in SHELL[0].splitlines()]
    assert [words[1] for words in commands] == ["models", "train", "bench", "sweep"]
    for program, *words in commands:
        assert program == "snnbench"
        quiet = ["--no-track"] if words[0] in ("train", "bench") else []
        done = snnbench(*words, *quiet)
        assert done.code == 0, f"{words}\n{done.err}"


def test_it_is_named_in_results_as_in_the_file(own: Path) -> None:
    spec = make_run_spec("hd", "two-speeds.toml", seed=3, data_fingerprint="x")
    assert spec.run_id.startswith("hd-two-speeds-seed3-")
    (own / "deep").mkdir()
    (own / "two-speeds.toml").rename(own / "deep" / "elsewhere.toml")
    again = make_run_spec("hd", "deep/elsewhere.toml", seed=3, data_fingerprint="x")
    assert again == spec
    study = strict_json(
        snnbench(
            *("sweep", "run", "hd", "deep/elsewhere.toml", "--data", "hd.h5", "--trials", 1),
            *("--set", "train.epochs=1", "--json"),
        ).out
    )
    assert study["study"].startswith("hd-two-speeds-")
    best = strict_json(
        snnbench(
            *("sweep", "best", "hd", "deep/elsewhere.toml", "--data", "hd.h5"),
            *("--set", "train.epochs=1", "--json"),
        ).out
    )
    assert best["command"][:4] == ["snnbench", "bench", "hd", "deep/elsewhere.toml"]


def test_overrides_of_a_task_and_of_the_user_hold(own: Path) -> None:
    def batch_size(task: str, **overrides: int) -> int:
        spec = make_run_spec(
            task,
            str(own / "two-speeds.toml"),
            seed=0,
            data_fingerprint="x",
            overrides={f"train.{k}": v for k, v in overrides.items()},
        )
        return spec.train.batch_size

    assert batch_size("hd") == 64
    assert batch_size("digits-synthetic") == 32
    assert batch_size("digits-synthetic", batch_size=7) == 7


def test_a_card_beside_it_is_shown(own: Path) -> None:
    without = snnbench("models", "show", "two-speeds.toml").out
    assert without.startswith("# two-speeds\n\nA convolution along the channels")
    (own / "two-speeds.md").write_text("# two-speeds\n\nTold at length.\n", "utf-8")
    shown = snnbench("models", "show", "two-speeds.toml").out
    assert shown.startswith("# two-speeds\n\nTold at length.")
    assert "hidden1" in shown


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, r"gone\.toml: cannot be read as TOML"),
        ("name = ", r"gone\.toml: cannot be read as TOML"),
        (LEAST.format(name="rec-lif"), r"name = 'rec-lif' is that of a model of the zoo"),
        (
            LEAST.format(name="../rec"),
            r"gone\.toml: name: '\.\./rec' will not do as a part of a folder",
        ),
        (LEAST.format(name="own") + "[serch]\n", r"gone\.toml: unknown key 'serch'; did you mean"),
        ('name = "own"\nsource = "t"\n[model]\n[train]\n', r"gone\.toml: summary: is missing"),
    ],
    ids=["no file", "no TOML", "a zoo's name", "a path as name", "a wrong key", "no summary"],
)
def test_what_is_wrong_is_told_with_the_file(
    text: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("gone.toml").write_text(text, "utf-8")
    with pytest.raises(UsageError, match=told):
        load_model("gone.toml")
    done = snnbench("models", "show", "gone.toml")
    assert done.code == 2
    assert re.search(told, done.err.replace("\n", " "))


def test_names_of_the_zoo_are_looked_up_as_before() -> None:
    assert all(load_model(name).name == name for name in model_names())
    with pytest.raises(UsageError, match="did you mean rec-lif"):
        load_model("rec-liff")
