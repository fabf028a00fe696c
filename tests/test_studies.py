"""What a study is, and how it is run: resumed, changed, refused; patterns from files and pictures."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from snnbench.errors import SnnbenchError, UsageError
from snnbench.studies import patterns, study
from snnbench.studies.pattern_learning import hit_share, learn, task
from snnbench.studies.runner import mean_and_interval, read_report, run_study
from snnbench.studies.study import Data, Job, Study, Verdict
from tests.commands import snnbench

NOTHING = Data(())
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not (SHARED / "fly").is_dir(), reason=f"published patterns are not in {SHARED}"
)


# -- a small study, and the runner ------------------------------------------------------------------


@dataclass(frozen=True)
class Squares:
    power: int = 2
    names: tuple[int, ...] = (1, 2, 3)
    loud: bool = False
    fail_at: int = -1


def raise_to_power(a: Any, report: Any, scratch: Path) -> dict[str, Any]:
    report(0.5)
    with open(a["log"], "a") as log:
        log.write(f"{a['n']}\n")
    if a["n"] == a["fail_at"]:
        raise SnnbenchError("no such number")
    return {"value": a["n"] ** a["power"]}


def small_study(folder: Path, seeds: int = 1) -> Study:
    def jobs(p: Squares, seeds: Any, data: Data) -> list[Job]:
        told = {"power": p.power, "log": str(folder / "log"), "fail_at": p.fail_at}
        return [Job(f"n-{n}", raise_to_power, {"n": n, **told}) for n in p.names]

    def summarise(p: Squares, results: Any) -> dict[str, Any]:
        return {"sum": sum(r["value"] for _, r in results), "_big": [0] * 1000}

    def draw(p: Squares, numbers: dict[str, Any]) -> dict[str, Figure]:
        figure = Figure()
        figure.subplots().plot([0, numbers["sum"]])
        return {"": figure}

    return Study(
        name="squares",
        shows="a sum",
        source="Pythagoras",
        criterion="the sum is 14",
        parameters=Squares(),
        seeds=seeds,
        jobs=jobs,
        summarise=summarise,
        judge=lambda p, n: Verdict(n["sum"] == 14, f"The sum is {n['sum']}."),
        draw=draw,
        trial={"names": (1,)},
    )


def done(folder: Path) -> list[str]:
    return (folder / "log").read_text().split()


def go(s: Study, folder: Path, parameters: Any = None, **options: Any) -> Any:
    told: list[tuple[float, int]] = []
    outcome = run_study(
        s,
        parameters or s.parameters,
        seeds=options.pop("seeds", range(s.seeds)),
        data=NOTHING,
        out=folder / "out",
        workers=options.pop("workers", 1),
        on_progress=lambda *x: told.append(x),
        **options,
    )
    assert told[-1] == (len(s.jobs(parameters or s.parameters, (0,), NOTHING)),) * 2
    return outcome


@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_writes_report_and_pictures_and_judges(tmp_path, workers):
    outcome = go(small_study(tmp_path), tmp_path, workers=workers)
    assert outcome.verdict == Verdict(True, "The sum is 14.")
    report = read_report(tmp_path / "out" / "squares.json")
    assert report["numbers"] == {"sum": 14}  # what begins with _ is for pictures
    assert report["verdict"]["seen"] is True
    assert report["parameters"]["power"] == 2
    assert {"commit", "processor"} <= set(report["environment"])
    for name in report["pictures"]:
        assert (tmp_path / "out" / name).stat().st_size > 1000
    assert report["pictures"] == ["squares.png", "squares.svg"]


def test_what_is_done_is_not_done_again_unless_arguments_change(tmp_path):
    s = small_study(tmp_path)
    go(s, tmp_path)
    go(s, tmp_path)
    assert done(tmp_path) == ["1", "2", "3"]
    go(s, tmp_path, Squares(power=3))
    assert done(tmp_path) == ["1", "2", "3"] * 2
    go(dataclasses.replace(s, version=2), tmp_path)
    assert done(tmp_path) == ["1", "2", "3"] * 3


def test_a_study_that_stopped_goes_on(tmp_path):
    s = small_study(tmp_path)
    with pytest.raises(SnnbenchError, match="n-2: no such number"):
        go(s, tmp_path, Squares(fail_at=2))
    parts = sorted((tmp_path / "out" / "parts").iterdir())
    assert len(parts) == 1  # the first job's result, whole; nothing half written
    assert not (tmp_path / "out" / "squares.json").exists()
    with pytest.raises(SnnbenchError):
        go(s, tmp_path, Squares(fail_at=2))
    assert done(tmp_path) == ["1", "2", "2"]


def test_a_result_that_cannot_be_read_is_made_again(tmp_path):
    s = small_study(tmp_path)
    go(s, tmp_path)
    next((tmp_path / "out" / "parts").iterdir()).write_text("{")
    assert go(s, tmp_path).verdict.seen
    assert len(done(tmp_path)) == 4


@pytest.mark.parametrize(
    ("options", "parameters", "says"),
    [
        ({"trial": True}, Squares(names=(1,)), "nothing is judged"),
        ({}, Squares(power=1), "parameters were changed"),
        ({"seeds": range(1)}, None, "2 seeds are asked for"),
    ],
)
def test_other_settings_are_no_reproduction(tmp_path, options, parameters, says):
    outcome = go(small_study(tmp_path, seeds=2), tmp_path, parameters, **options)
    assert outcome.verdict.seen is None
    assert says in outcome.verdict.sentence


def test_settings_are_read_by_their_kind(tmp_path):
    s = small_study(tmp_path)
    found = study.with_settings(s, {"power": "3", "names": "4,5", "loud": "true"}, trial=False)
    assert found == Squares(power=3, names=(4, 5), loud=True)
    assert study.with_settings(s, {}, trial=True) == Squares(names=(1,))
    with pytest.raises(UsageError, match="did you mean power"):
        study.with_settings(s, {"powr": "3"}, trial=False)
    for key, text in (("power", "x"), ("names", "1,x"), ("loud", "perhaps")):
        with pytest.raises(UsageError, match=f"{key}: cannot read"):
            study.with_settings(s, {key: text}, trial=False)


def test_mean_and_interval_by_hand():
    found = mean_and_interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2
    assert found["sd"] == 1
    assert found["half_width_95"] == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert mean_and_interval([5.0])["half_width_95"] == 0


def test_a_report_that_is_none_is_named(tmp_path):
    with pytest.raises(SnnbenchError, match="reproduce run squares"):
        read_report(tmp_path / "squares.json")
    (tmp_path / "squares.json").write_text("[]")
    with pytest.raises(SnnbenchError, match="not the report of a study"):
        read_report(tmp_path / "squares.json")


@pytest.mark.parametrize("name", study.MODULES)
def test_every_study_says_what_it_is(name):
    s = study.load_study(name)
    assert s.name == name
    assert s.shows
    assert s.source
    assert len(s.criterion) > 30
    known = {f.name for f in dataclasses.fields(s.parameters)}
    assert set(s.trial) <= known
    jobs = s.jobs(study.with_settings(s, {}, trial=True), range(1), NOTHING)
    assert jobs
    assert len({j.key for j in jobs}) == len(jobs)
    json.dumps([dict(j.arguments) for j in jobs])


# -- patterns ---------------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_ras_file_becomes_spikes(tmp_path):
    path = write(tmp_path / "t.ras", "# a comment\n0.0101 2\n0.05 0\n")
    found = patterns.read_ras(path, 3, 0.1).dense(1e-4)
    assert found.shape == (1000, 1, 3)
    assert found.nonzero().tolist() == [[101, 0, 2], [500, 0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no spikes in it"),
        ("# nothing\n", "no spikes in it"),
        (
            "0.01 3\n",
            r"spike 1 has the id 3, outside 0 to 2; one-based ids are read with target_ids",
        ),
        ("0.01 -1\n", "outside 0 to 2"),
        ("0.01 1\n0.2 1\n", "spike 2 is at 0.2 s, outside the loop of 0.1 s"),
        ("nan 1\n", "outside the loop"),
        ("0.05 1\n0.04 1\n", "times go back at spike 2.*target_order=any"),
        ("0.05 1 7\n", "line 1 is '0.05 1 7'"),
        ("time unit\n", "a line has a time in s and a unit's id"),
    ],
)
def test_a_ras_file_that_does_not_fit_is_refused(tmp_path, text, message):
    with pytest.raises(SnnbenchError, match=message) as caught:
        patterns.read_ras(write(tmp_path / "t.ras", text), 3, 0.1)
    assert "t.ras" in str(caught.value)


def test_ids_from_one_and_unsorted_times_are_taken_when_named(tmp_path):
    path = write(tmp_path / "t.ras", "0.05 3\n0.04 1\n")
    found = patterns.read_ras(path, 3, 0.1, ids="one-based", order="any")
    assert found.times_s.tolist() == [0.04, 0.05]
    assert found.units.tolist() == [0, 2]


@needs_shared
def test_the_published_targets_are_off_by_one_and_unsorted():
    path = SHARED / "ssbm" / "oxford" / "target.ras"
    with pytest.raises(SnnbenchError, match="one-based"):
        patterns.read_ras(path, 200, 1.89)
    with pytest.raises(SnnbenchError, match="times go back"):
        patterns.read_ras(path, 200, 1.89, ids="one-based")
    found = patterns.read_ras(path, 200, 1.89, ids="one-based", order="any")
    assert len(found.times_s) == 10_367
    assert (found.units.min(), found.units.max()) == (0, 199)


@needs_shared
def test_the_flys_picture_is_its_target():
    """Spikes of the published target, by row and column, are the dark pixels of the picture."""
    ink = patterns.read_bitmap(SHARED / "fly" / "fly.png")
    target = patterns.read_ras(
        SHARED / "fly" / "target.ras", 200, 1.89, ids="one-based", order="any"
    )
    drawn = np.zeros_like(ink)
    column = np.floor(target.times_s / patterns.COLUMN_S).astype(int)
    drawn[ink.shape[0] - 1 - target.units, column] = True
    assert (drawn & ink).sum() / (drawn | ink).sum() > 0.9


def test_a_dark_pixel_is_a_spike_of_its_row_in_its_column(tmp_path):
    image = Image.new("L", (4, 3), 255)
    image.putpixel((1, 0), 0)  # column 1, top row
    image.putpixel((3, 2), 249)  # column 3, bottom row, hardly grey
    image.save(tmp_path / "p.png")
    found = patterns.bitmap_spikes(patterns.read_bitmap(tmp_path / "p.png"), seed=0)
    assert found.units.tolist() == [2, 0]
    assert 0.01 <= found.times_s[0] < 0.02
    assert 0.03 <= found.times_s[1] < 0.04
    assert found.loop_s == pytest.approx(0.04)


def test_transparent_is_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.save(tmp_path / "p.png")
    assert patterns.read_bitmap(tmp_path / "p.png").tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Image.new("L", (1001, 10), 0).save(p), "1001 x 10 pixels.*scale it down"),
        (lambda p: Image.new("L", (10, 401), 0).save(p), "at most 1000 x 400"),
        (lambda p: Image.new("L", (10, 10), 255).save(p), "no spikes to learn"),
        (lambda p: p.write_bytes(b"no picture"), "cannot be read as a picture"),
    ],
)
def test_a_picture_that_cannot_be_learnt_is_refused(tmp_path, make, message):
    path = tmp_path / "p.png"
    make(path)
    with pytest.raises(SnnbenchError, match=message):
        patterns.read_bitmap(path)


@given(st.integers(1, 30), st.floats(1, 50), st.integers(0, 10**6))
def test_frozen_noise_is_the_same_for_a_seed_and_inside_its_loop(size, rate_hz, seed):
    first, second = (patterns.poisson_spikes(size, rate_hz, 0.5, seed) for _ in range(2))
    np.testing.assert_array_equal(first.times_s, second.times_s)
    assert ((first.units >= 0) & (first.units < size)).all()
    assert ((first.times_s >= 0) & (first.times_s <= 0.5)).all()


def test_five_equidistant_spikes_are_those_of_the_paper():
    found = patterns.equidistant_spikes(5, 0.5)
    np.testing.assert_allclose(found.times_s, [0.083, 0.166, 0.249, 0.332, 0.415])


def test_hits_by_hand():
    import torch

    spikes, targets = torch.zeros(100, 1, 1), torch.zeros(100, 1, 1)
    targets[[10, 50, 90]] = 1
    spikes[[12, 60]] = 1
    assert hit_share(spikes, targets, within=2) == [pytest.approx(1 / 3)]


# -- learning a pattern, and the command line -------------------------------------------------------


def test_a_stopped_job_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    a = task(
        patterns.five_spikes(NOTHING), seeds=[0, 1], hidden=(3,), seconds=4.0, feedback="random",
        every_s=0.5, frames_s=(0.0, 1.6), traces_s=(0.0, 2.5), rho=1.0,
    )  # fmt: skip
    whole = learn(a, lambda fraction: None, tmp_path / "a")
    monkeypatch.setattr("snnbench.studies.pattern_learning._SAVE_EVERY_S", 0.0)

    def stop_late(fraction: float) -> None:
        if fraction > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(a, stop_late, tmp_path / "b")
    assert (tmp_path / "b").is_file()
    blocks: list[float] = []
    resumed = learn(a, blocks.append, tmp_path / "b")
    assert blocks[0] > 0.5  # not from the beginning
    assert resumed == whole
    assert len(whole["frames"]) == 2


def test_a_checkpoint_that_cannot_be_read_is_left_alone(tmp_path):
    a = task(patterns.five_spikes(NOTHING), seeds=[0], hidden=(), seconds=1.0, every_s=0.5)
    (tmp_path / "b").write_bytes(b"not a checkpoint")
    assert learn(a, lambda f: None, tmp_path / "b") == learn(a, lambda f: None, tmp_path / "c")


SUPERSPIKE_STUDIES = [n for n in study.MODULES if n.startswith("superspike-")]


@pytest.mark.parametrize("name", [*SUPERSPIKE_STUDIES, "four-factors", "feedback-alignment"])
def test_a_trial_walks_the_whole_way(tmp_path, name):
    result = snnbench(
        "reproduce", "run", name, "--trial", "--out", tmp_path, "--workers", "1", "--json"
    )
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["seen"] is None
    assert "generated" in answer["numbers"].get("data", "generated")
    for path in answer["files"]:
        assert Path(path).stat().st_size > 0
    report = read_report(tmp_path / f"{name}.json")
    assert report["verdict"]["sentence"] == "A quick look with --trial: nothing is judged."


def test_a_picture_of_ones_own_becomes_a_film(tmp_path):
    image = Image.new("L", (40, 12), 255)
    for x in range(5, 35):
        image.putpixel((x, 6), 0)
    image.save(tmp_path / "line.png")
    result = snnbench(
        "reproduce", "run", "superspike-picture", "--image", tmp_path / "line.png", "--trial",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.code == 0, result.err
    with Image.open(tmp_path / "out" / "superspike-picture.gif") as film:
        frames: Any = film
        assert frames.n_frames >= 2
    report = read_report(tmp_path / "out" / "superspike-picture.json")
    assert report["numbers"]["data"] == "line.png, 40 x 12 pixels"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("superspike-singel",), 2, "superspike-single"),
        (("superspike-single", "--set", "rate"), 2, "KEY=VALUE"),
        (("superspike-single", "--set", "rate_mv=fast"), 2, "rate_mv: cannot read 'fast'"),
        (("superspike-single", "--image", __file__), 2, "parameter of superspike-single 'image'"),
        (("superspike-picture", "--image", __file__), 1, "cannot be read as a picture"),
        (("superspike-picture", "--set", "target_ids=two"), 1, "target_ids is 'two'"),
        (("superspike-picture", "--set", "target=none.ras", "--trial"), 1, "none.ras: cannot read"),
    ],
)
def test_wrong_words_are_told(tmp_path, options, code, message):
    result = snnbench("reproduce", "run", *options, "--out", tmp_path)
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err


def test_studies_are_listed_and_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("SNNBENCH_HOME", str(tmp_path))
    listed = json.loads(snnbench("reproduce", "list", "--json").out)
    assert [row["name"] for row in listed] == list(study.MODULES)
    shown = snnbench("reproduce", "show", "four-factors").out
    told = json.loads(snnbench("reproduce", "show", "four-factors", "--json").out)
    assert told["report"] is None
    assert told["parameters"]["seconds"] == 30
    assert "criterion  eligibility times error" in shown
    assert "done here  no" in shown
    snnbench("reproduce", "run", "four-factors", "--trial")
    assert "nothing is judged" in snnbench("reproduce", "show", "four-factors").out


def test_a_network_whose_rates_run_away_is_told_as_such():
    from snnbench.studies import superspike_pattern as pattern

    def result(case: str, end: float, **more: Any) -> tuple[Job, dict[str, Any]]:
        job = Job(case, learn, {"case": case, "hidden": [] if case.startswith("no") else [8]})
        told = {
            "source": "x",
            "times_s": [0, 1],
            "metric": [[40.0, end]],
            "cv": [1.0],
            "frames": [],
        }
        return job, {**told, "rates_hz": [[10.0], [5.0]], "targets": [[1, 1]], **more}

    ends = {"symmetric": 2.0, "symmetric-linear": 8.0, "frozen hidden layer": 14.0, "random": 19.0,
            "no hidden layer": 5.0}  # fmt: skip
    results = [result(case, end) for case, end in ends.items()]
    results.append(result("uniform", 50.0, diverged="rates have diverged", rates_hz=[], cv=[]))
    numbers = pattern.summarise(pattern.Parameters(), results)
    verdict = pattern.judge(pattern.Parameters(), numbers)
    assert verdict.seen
    assert "uniform ran away" in verdict.sentence
    results[0] = result("symmetric", 9.0)
    worse = pattern.summarise(pattern.Parameters(), results)
    assert not pattern.judge(pattern.Parameters(), worse).seen
