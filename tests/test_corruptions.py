"""Changed test samples: by hand, as invariants, and a trained run on them from end to end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from snnbench.bench import run_seed
from snnbench.checkpoint import build_for
from snnbench.corruption_spec import CORRUPTIONS, SEEDS, VERSION, Setting, settings_of
from snnbench.corruptions import Terms, corrupt
from snnbench.data_prep.sources import NO_GROUPS
from snnbench.data_prep.spikes import SpikeSplit
from snnbench.data_prep.store import SpikeDataset
from snnbench.errors import SnnbenchError, UsageError
from snnbench.evaluate import predict
from snnbench.metrics import Counts
from snnbench.record import RunRecord, read_record, sealed
from snnbench.robustness import (
    Point,
    Robustness,
    count_by_acquaintance,
    read_robustness,
    robustness_of_run,
)
from snnbench.robustness_plots import robustness_curves
from snnbench.spec import load_task, make_run_spec
from snnbench.stress import stress_run
from snnbench.tracking import NullTracker
from tests.factories import make_environment, make_record
from tests.tiny_data import make_sample, write_dataset
from tests.toy_spikes import split_from_samples, toy_spec, toy_split

CPU = torch.device("cpu")
N_UNITS, DURATION_S = 12, 0.2
TERMS = Terms(N_UNITS, DURATION_S, np.float32(DURATION_S), mean_spikes=48.0)
RANDOM = [name for name, corruption in CORRUPTIONS.items() if corruption.random]
CONSERVING = ["time-jitter", "channel-noise", "faster", "slower"]


def changed(part: SpikeSplit, name: str, level: float, seed: int = 0) -> SpikeSplit:
    return corrupt(part, Setting(name, level, seed), TERMS)


def assert_same(a: SpikeSplit, b: SpikeSplit) -> None:
    assert (a.times.tobytes(), a.units.tobytes()) == (b.times.tobytes(), b.units.tobytes())
    assert (a.times.dtype, a.units.dtype) == (b.times.dtype, b.units.dtype)
    np.testing.assert_array_equal(a.offsets, b.offsets)
    assert a.source_ids == b.source_ids


@st.composite
def splits(draw: st.DrawFn) -> SpikeSplit:
    """Some samples with sorted times, a few of them after the duration; some are silent."""
    counts = draw(st.lists(st.integers(0, 30), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    longest = draw(st.sampled_from([DURATION_S, 2 * DURATION_S]))
    times = [np.sort(rng.uniform(0, longest, n)) for n in counts]
    units = [rng.integers(N_UNITS, size=n) for n in counts]
    return split_from_samples(times, units, np.zeros(len(counts)))


# --- by hand


def test_nothing_and_everything_is_deleted():
    part = toy_split(20, seed=1)
    assert_same(changed(part, "deletion", 0.0), part)
    gone = changed(part, "deletion", 1.0)
    assert (gone.n_spikes, len(gone)) == (0, 20)
    np.testing.assert_array_equal(gone.offsets, np.zeros(21))
    np.testing.assert_array_equal(gone.labels, part.labels)


def test_every_spike_is_deleted_with_the_same_probability():
    part = toy_split(500, seed=1)  # 24,000 spikes
    left = changed(part, "deletion", 0.25)
    # five standard deviations of a binomial number
    assert left.n_spikes == pytest.approx(18_000, abs=5 * np.sqrt(24_000 * 0.25 * 0.75))
    kept = np.bincount(left.units, minlength=N_UNITS) / 2_000
    np.testing.assert_allclose(kept, 0.75, atol=5 * np.sqrt(0.25 * 0.75 / 2_000))


def test_times_move_by_the_standard_deviation_that_the_level_says():
    # in the middle, so that the ends, ten standard deviations away, play no part
    part = split_from_samples([np.full(20_000, 0.1)], [np.zeros(20_000)], [0])
    moved = changed(part, "time-jitter", 0.05).times - 0.1
    assert moved.std() == pytest.approx(0.01, rel=0.03)
    assert moved.mean() == pytest.approx(0, abs=5 * 0.01 / np.sqrt(20_000))


def test_times_are_reflected_at_both_ends_and_what_is_never_seen_stays():
    at_ends = [0.0] * 5_000 + [np.nextafter(np.float32(0.2), np.float32(0))] * 5_000
    part = split_from_samples([[*at_ends, 0.2, 0.35]], [np.zeros(10_002)], [0])
    times = changed(part, "time-jitter", 0.05).times
    assert times[-2:].tolist() == [np.float32(0.2), np.float32(0.35)]
    assert times[:-2].max() < np.float32(0.2)
    # half normal: mean sd * sqrt(2 / pi), away from either end
    expected = 0.01 * np.sqrt(2 / np.pi)
    assert times[:5_000].mean() == pytest.approx(expected, rel=0.05)
    assert 0.2 - times[5_000:-2].mean() == pytest.approx(expected, rel=0.05)


def test_a_spike_at_an_end_that_counts_stays_visible():
    inclusive = TERMS._replace(end=np.nextafter(np.float32(0.2), np.float32(1)))
    part = split_from_samples([[0.2] * 1_000], [np.zeros(1_000)], [0])
    assert_same(corrupt(part, Setting("time-jitter", 0.0, 0), inclusive), part)
    moved = corrupt(part, Setting("time-jitter", 0.01, 0), inclusive).times
    assert moved.max() <= np.float32(0.2)
    assert moved.min() < 0.2


def test_units_move_by_whole_numbers_and_come_back_from_the_ends():
    part = split_from_samples([np.full(20_000, 0.1)], [np.full(20_000, 6)], [0])
    shift = changed(part, "channel-noise", 1 / 12).units.astype(int) - 6
    # a normal number of sd 1, rounded: its variance has 1/12 more
    assert shift.std() == pytest.approx(np.sqrt(1 + 1 / 12), rel=0.03)
    edge = split_from_samples([np.full(20_000, 0.1)], [np.zeros(20_000)], [0])
    shares = np.bincount(changed(edge, "channel-noise", 1 / 12).units, minlength=12) / 20_000
    # shifts of 0 and -1 both end at unit 0; of 1 and -2 at unit 1
    from scipy.stats import norm

    inside = norm.cdf(np.arange(4) + 0.5) - norm.cdf(np.arange(4) - 0.5)
    np.testing.assert_allclose(
        shares[:2], [inside[0] + inside[1], inside[1] + inside[2]], atol=0.02
    )


def test_noise_adds_the_share_of_spikes_that_the_level_says_everywhere():
    part = toy_split(500, seed=1)
    noisy = changed(part, "noise-spikes", 0.5)
    counts = np.diff(noisy.offsets) - 48
    assert counts.mean() == pytest.approx(24, abs=5 * np.sqrt(24 / 500))
    assert counts.var() == pytest.approx(24, rel=0.3)  # Poisson
    silent = split_from_samples([[]] * 500, [[]] * 500, np.zeros(500))
    noise = changed(silent, "noise-spikes", 0.5)
    assert noise.n_spikes == counts.sum()  # the same draws, whatever the samples hold
    np.testing.assert_allclose(np.bincount(noise.units, minlength=12) / 1_000, 1, atol=0.17)
    bins = np.histogram(noise.times, bins=10, range=(0, DURATION_S))[0]
    np.testing.assert_allclose(bins / 1_200, 1, atol=0.16)


def test_lost_channels_are_the_same_in_all_samples_of_a_seed():
    part = toy_split(50, seed=1)  # every unit fires in every sample
    for share, lost in ((0.0, 0), (0.25, 3), (0.5, 6), (1.0, 12)):
        left = changed(part, "channel-loss", share)
        of_samples = {tuple(sorted(set(left.sample(i)[1].tolist()))) for i in range(50)}
        assert len(of_samples) == 1
        [units] = of_samples
        assert len(units) == 12 - lost
        assert left.n_spikes == 50 * 4 * (12 - lost)


def test_half_and_twice_the_tempo_move_times_exactly():
    part = split_from_samples([[0.0, 0.01, 0.1, 0.2, 0.3]], [[0, 1, 2, 3, 4]], [0])
    assert changed(part, "slower", 1.0).times.tolist() == (part.times * 2).tolist()
    assert changed(part, "faster", 1.0).times.tolist() == (part.times / 2).tolist()
    np.testing.assert_array_equal(changed(part, "faster", 1.0).units, part.units)


def test_an_unknown_corruption_is_named():
    with pytest.raises(UsageError, match="unknown corruption 'delete'; did you mean deletion"):
        changed(toy_split(1, seed=0), "delete", 0.5)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_levels_are_those_of_the_version(name: str):
    """What follows from the tables is a result of `VERSION`: who edits them makes another version."""
    shares, widths, tempi = (
        [0.1, 0.25, 0.5, 0.75, 0.9],
        [0.005, 0.01, 0.02, 0.05, 0.1],
        [0.1, 0.2, 0.35, 0.5, 1.0],
    )
    tables = {
        **dict.fromkeys(("deletion", "channel-loss"), shares),
        **dict.fromkeys(("time-jitter", "channel-noise"), widths),
        **dict.fromkeys(("faster", "slower"), tempi),
        "noise-spikes": [0.02, 0.05, 0.1, 0.25, 0.5],
    }
    seeds = (0, 1, 2) if name in RANDOM else (0,)
    assert VERSION == Robustness.model_fields["version"].default == "corruptions/1"
    assert settings_of(name) == [(name, level, seed) for level in tables[name] for seed in seeds]


PINNED = {
    "deletion": "9bdd7f22c34af644",
    "time-jitter": "4b48a3a870e938ac",
    "channel-noise": "2a304e2398e62e11",
    "noise-spikes": "7a0ee6baf2b25051",
    "channel-loss": "336a75149b794299",
    "faster": "a229667b395ac116",
    "slower": "1a498beeeb712909",
}


def test_samples_of_the_version_are_these_to_the_bit():
    """Fails where NumPy draws other numbers: counts would then not be those of other people."""
    digests = {}
    split = split_from_samples([np.arange(40) * 0.005] * 20, [np.arange(40) % 12] * 20, [0] * 20)
    for name in CORRUPTIONS:
        part = changed(split, name, CORRUPTIONS[name].levels[2], SEEDS[-1])
        digest = hashlib.sha256()
        for array in (part.times.astype("<f4"), part.units.astype("<u2"), part.offsets):
            digest.update(array.tobytes())
        digests[name] = digest.hexdigest()[:16]
    assert digests == PINNED


# --- invariants


@given(splits(), st.sampled_from(list(CORRUPTIONS)), st.integers(0, 9))
def test_level_0_changes_nothing(part: SpikeSplit, name: str, seed: int):
    assert_same(changed(part, name, 0.0, seed), part)


@given(
    splits(),
    st.sampled_from(list(CORRUPTIONS)),
    st.floats(0, 1, exclude_min=True),
    st.integers(0, 9),
)
def test_what_comes_out_is_a_split(part: SpikeSplit, name: str, level: float, seed: int):
    before = (part.times.tobytes(), part.units.tobytes(), part.offsets.tobytes())
    out = changed(part, name, level, seed)
    assert (part.times.tobytes(), part.units.tobytes(), part.offsets.tobytes()) == before
    assert (out.times.dtype, out.units.dtype, out.offsets.dtype) == ("f4", "u2", "i8")
    assert (out.offsets[0], out.offsets[-1]) == (0, len(out.times)) == (0, len(out.units))
    assert (out.times >= 0).all()
    assert (out.units < N_UNITS).all()
    for i in range(len(out)):
        assert (np.diff(out.sample(i)[0]) >= 0).all()
    np.testing.assert_array_equal(out.labels, part.labels)
    if name in CONSERVING:
        np.testing.assert_array_equal(out.offsets, part.offsets)
    elif name == "noise-spikes":
        assert (np.diff(out.offsets) >= np.diff(part.offsets)).all()
    else:
        assert (np.diff(out.offsets) <= np.diff(part.offsets)).all()
    if name != "faster" and name != "slower":
        late = [(s.times >= TERMS.end).sum() for s in (part, out)]
        if name in ("time-jitter", "channel-noise", "noise-spikes"):
            assert late[0] == late[1]  # so what is seen is conserved, too


@given(splits(), st.sampled_from(list(CORRUPTIONS)), st.integers(0, 9), st.data())
def test_a_sample_is_changed_alike_in_any_company_and_order(
    part: SpikeSplit, name: str, seed: int, data: st.DataObject
):
    whole = changed(part, name, 0.5, seed)
    cut = data.draw(st.integers(0, len(part)))
    for block, first in ((part.read(0, cut), 0), (part.read(cut, len(part)), cut)):
        alone = changed(block, name, 0.5, seed)
        for i in range(len(block)):
            for a, b in zip(alone.sample(i), whole.sample(first + i), strict=True):
                np.testing.assert_array_equal(a, b)
    order = data.draw(st.permutations(range(len(part))))
    times, units = zip(*(part.sample(i) for i in order), strict=True)
    other = split_from_samples(list(times), list(units), part.labels[list(order)])
    other = replace(other, source_ids=[part.source_ids[i] for i in order])
    reordered = changed(other, name, 0.5, seed)
    for place, i in enumerate(order):
        for a, b in zip(reordered.sample(place), whole.sample(i), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", RANDOM)
def test_seeds_levels_and_samples_draw_numbers_of_their_own(name: str):
    part = toy_split(2, seed=1)
    # the same spikes twice, under two names
    twin = split_from_samples([part.sample(0)[0]] * 2, [part.sample(0)[1]] * 2, [0, 0])
    level = CORRUPTIONS[name].levels[-1]
    assert_same(changed(part, name, level, 1), changed(part, name, level, 1))
    seeds = [changed(part, name, level, seed) for seed in SEEDS]
    drawn = {(s.times.tobytes(), s.units.tobytes(), s.offsets.tobytes()) for s in seeds}
    assert len(drawn) == len(SEEDS)
    a, b = (np.concatenate(changed(twin, name, level).sample(i)).tolist() for i in range(2))
    assert (a == b) == (name == "channel-loss")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_level_0_gives_the_clean_predictions_bit_for_bit(name: str):
    spec = toy_spec("rec-lif")
    network = build_for(spec, torch.Generator().manual_seed(0))
    split = toy_split(100, seed=1)
    clean = predict(network, split, spec, CPU)
    terms = Terms.of(spec, split)
    level_0 = predict(network, corrupt(split, Setting(name, 0.0, 2), terms), spec, CPU)
    assert level_0.predictions.tobytes() == clean.predictions.tobytes()
    assert level_0.operations == clean.operations
    worst = Setting(name, CORRUPTIONS[name].levels[-1], 0)
    changed_operations = predict(network, corrupt(split, worst, terms), spec, CPU).operations
    assert changed_operations.spikes != clean.operations.spikes


# --- the numbers


def audit(accuracies: dict[str, float], clean: float = 0.8, **changes: Any) -> Robustness:
    """An audit of 1,000 samples of ten classes with one accuracy for each corruption."""
    points = {
        name: [
            Point(level=s.level, seed=s.seed, correct=round(1000 * accuracies[name]), total=1000)
            for s in settings_of(name)
        ]
        for name in accuracies
    }
    facts = {
        "run_id": "run",
        "checkpoint_sha256": "1" * 64,
        "data_fingerprint": "f" * 64,
        "n_classes": 10,
        "environment": make_environment(),
        "clean": Counts(correct=round(1000 * clean), total=1000),
        "different_predictions": 0,
        "points": points,
    }
    return Robustness.model_validate({**facts, **changes})


def test_the_one_number_is_the_share_of_accuracy_above_chance():
    # chance is 0.1: of 0.7 above it 0.35 is left, and so on
    accuracies = dict(zip(CORRUPTIONS, (0.8, 0.45, 0.1, 0.1, 0.1, 0.1, 0.1), strict=True))
    result = audit(accuracies)
    assert [result.retained(n) for n in CORRUPTIONS][:3] == pytest.approx([1, 0.5, 0])
    assert result.robustness == pytest.approx(1.5 / 7)
    # below chance counts, so that luck balances out
    assert audit(accuracies | {"slower": 0.03}).robustness == pytest.approx(1.4 / 7)


def test_levels_and_seeds_weigh_the_same():
    result = audit(dict.fromkeys(CORRUPTIONS, 0.8))
    points = [
        p.model_copy(update={"correct": 100 if p.level == 0.9 else 800})
        for p in result.points["deletion"]
    ]
    points[0] = points[0].model_copy(update={"correct": 700})
    result = audit({}, points={"deletion": points})
    assert result.accuracies("deletion") == pytest.approx(
        {0.0: 0.8, 0.1: (0.7 + 0.8 + 0.8) / 3, 0.25: 0.8, 0.5: 0.8, 0.75: 0.8, 0.9: 0.1}
    )
    assert result.retained("deletion") == pytest.approx((4 - 0.1 / 3 / 0.7) / 5)
    assert result.robustness is None  # not all corruptions are there


@pytest.mark.parametrize(("clean", "told"), [(0.1, False), (0.12, False), (0.14, True)])
def test_no_share_is_told_of_what_is_not_above_chance(clean: float, told: bool):
    # three standard errors of 1,000 guesses are 0.028
    assert (audit(dict.fromkeys(CORRUPTIONS, 0.1), clean).robustness is not None) == told


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        (("08", "09"), {"trained": (3, 4), "unseen": (5, 10)}),
        (("08", "01"), {"trained": (3, 4), "validated": (5, 10)}),
        (("08", "08"), {"trained": (3, 4)}),
    ],
)
def test_speakers_are_told_by_what_the_network_knew_of_them(
    groups: tuple[str, str], expected: dict[str, tuple[int, int]]
):
    record = make_record()
    known = {"train": ["08", "02"], "valid": ["01"], "test": sorted(set(groups))}
    record = record.model_copy(update={"data": record.data.model_copy(update={"groups": known})})
    counts = dict(zip(groups, (Counts(correct=5, total=10),) * 2, strict=True))
    counts["08"] = Counts(correct=3, total=4)
    found = count_by_acquaintance(record, counts, NO_GROUPS)
    assert {kind: (c.correct, c.total) for kind, c in found.items()} == expected


def test_data_without_speakers_tells_none():
    record = make_record()
    alone = {split: [NO_GROUPS] for split in ("train", "valid", "test")}
    record = record.model_copy(update={"data": record.data.model_copy(update={"groups": alone})})
    assert count_by_acquaintance(record, {NO_GROUPS: Counts(correct=1, total=2)}, NO_GROUPS) == {}


# --- a trained run

CLASSES = 4
SETTINGS = {
    "model.hidden": [24],
    "model.input_gain": 8.0,
    "model.dropout": 0.0,
    "train.epochs": 8,
    "train.batch_size": 16,
    "train.lr": 0.02,
    "train.schedule": "constant",
    "train.patience": None,
    "train.dt_s": 0.01,
    "train.units_per_channel": 20,
    "train.augment": {},
}


def easy_samples(split: str, n: int, group: int) -> list[Any]:
    """Four classes, each with 80 spikes in units of its own."""
    samples = []
    for i in range(n):
        rng = np.random.default_rng([i, *split.encode()])
        label = i % CLASSES
        samples.append(
            make_sample(
                f"{split}-{i}",
                group=group,
                label=label,
                times=np.sort(rng.uniform(0, 1.2, 80)).astype(np.float32),
                units=(170 * label + rng.integers(0, 170, 80)).astype(np.uint16),
            )
        )
    return samples


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data file with 600 test samples (more than are read at once), and a run that has learnt it."""
    folder = tmp_path_factory.mktemp("trained")
    splits = {"train": ("train", 80, 0), "valid": ("valid", 40, 1), "test": ("test", 600, 2)}
    data = write_dataset(folder / "hd.h5", {name: easy_samples(*of) for name, of in splits.items()})
    with SpikeDataset.open(data) as dataset:
        spec = make_run_spec(
            "hd", "ff-lif", seed=0, data_fingerprint=dataset.fingerprint, overrides=SETTINGS
        )
        run = folder / spec.run_id
        run_seed(spec, dataset, folder=run, device=CPU, tracker=NullTracker())
    return data, run


@pytest.fixture(scope="module")
def tested(trained: tuple[Path, Path]) -> Robustness:
    data, run = trained
    with SpikeDataset.open(data) as dataset:
        return stress_run(run, dataset, CPU)


@pytest.fixture
def copied(trained: tuple[Path, Path], tested: Robustness, tmp_path: Path) -> tuple[Path, Path]:
    """The data file, and a copy of the run to break; its audit is complete."""
    import shutil

    return trained[0], shutil.copytree(trained[1], tmp_path / trained[1].name)


def record_of(run: Path) -> RunRecord:
    return read_record(run / "record.json")


def test_a_run_is_tested_on_everything_and_the_record_stays(
    trained: tuple[Path, Path], tested: Robustness
):
    _, run = trained
    record = record_of(run)
    assert record.test is not None
    assert record.test.accuracy > 0.8  # so there is something to lose
    assert tested.clean == record.test
    assert (tested.different_predictions, record.test_reads) == (0, 1)
    assert read_robustness(run / "robustness.json") == tested
    assert tested.complete
    assert tested.speakers == {"unseen": record.test}
    assert tested.robustness is not None
    assert 0.1 < tested.robustness < 1
    assert (tested.run_id, tested.checkpoint_sha256) == (record.run_id, record.checkpoint_sha256)
    # the more is changed, the less is left: from the first level to the last
    for name in ("deletion", "noise-spikes", "channel-loss"):
        accuracies = list(tested.accuracies(name).values())
        assert accuracies[-1] < accuracies[1] + 0.02, name


def test_counts_are_those_of_the_whole_split_changed_at_once(
    trained: tuple[Path, Path], tested: Robustness
):
    from snnbench.redraw import open_run

    data, run = trained
    network, device, spec, *_ = open_run(run, CPU)
    with SpikeDataset.open(data) as dataset:
        split = dataset.read("test")
    terms = Terms.of(spec, split)
    for name in ("noise-spikes", "channel-loss", "slower"):
        last = tested.points[name][-1]
        part = corrupt(split, Setting(name, last.level, last.seed), terms)
        predictions = predict(network, part, spec, device).predictions
        assert int((predictions == split.labels).sum()) == last.correct


def test_without_spikes_a_network_is_right_by_chance(trained: tuple[Path, Path]):
    from snnbench.redraw import open_run

    data, run = trained
    network, device, spec, *_ = open_run(run, CPU)
    with SpikeDataset.open(data) as dataset:
        split = dataset.read("test")
    none_left = corrupt(split, Setting("deletion", 1.0, 0), Terms.of(spec, split))
    predictions = predict(network, none_left, spec, device).predictions
    # every class has a quarter of the samples: one answer to all of them is right in a quarter, or in none
    assert len(set(predictions.tolist())) == 1
    assert (predictions == split.labels).mean() in (0.0, 0.25)


def test_a_finished_audit_is_not_done_again(copied: tuple[Path, Path], tested: Robustness):
    data, run = copied
    (run / "model.safetensors").unlink()
    with SpikeDataset.open(data) as dataset:
        assert stress_run(run, dataset, CPU) == tested


def test_a_stopped_audit_keeps_what_is_finished_and_goes_on(
    copied: tuple[Path, Path], tested: Robustness
):
    data, run = copied
    (run / "robustness.json").unlink()
    told: list[tuple[int, int, int, str]] = []

    def stop(done: int, total: int, resumed: int, name: str) -> None:
        told.append((done, total, resumed, name))
        if name == "channel-noise" and resumed == 0:
            raise KeyboardInterrupt

    with SpikeDataset.open(data) as dataset:
        with pytest.raises(KeyboardInterrupt):
            stress_run(run, dataset, CPU, on_progress=stop)
        half = read_robustness(run / "robustness.json")
        assert list(half.points) == ["deletion", "time-jitter"]
        assert half.robustness is None
        told.clear()
        assert stress_run(run, dataset, CPU, on_progress=stop) == tested
    total = 600 * (5 * 5 * 3 + 2 * 5)
    assert told[0] == (600 * 30, total, 600 * 30, "channel-noise")
    assert told[-1] == (total, total, 600 * 30, "slower")
    assert {path.name for path in run.glob("*robustness*")} == {"robustness.json"}


def edited(run: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    path = run / "robustness.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(sealed(content)))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version="corruptions/2"), "version"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c.pop("clean"), "clean"),
        (lambda c: c["points"]["deletion"].pop(), "deletion: levels and seeds are not those"),
        (lambda c: c["points"].update(blur=[]), "'blur' is no corruption"),
        (lambda c: c["points"]["slower"][0].update(level=0.11), "slower: levels and seeds"),
        (lambda c: c["points"]["slower"][0].update(correct=601), "no count is larger"),
        (lambda c: c["points"]["slower"][0].update(total=599), "on all samples"),
        (lambda c: c["points"]["slower"][0].update(correct=-1), "correct"),
    ],
)
def test_an_edited_file_is_refused_by_name(
    copied: tuple[Path, Path], change: Callable[[dict[str, Any]], Any], message: str
):
    path = edited(copied[1], change)
    with pytest.raises(SnnbenchError, match=message) as caught:
        robustness_of_run(copied[1])
    assert str(path) in str(caught.value)
    assert "move it away" in str(caught.value)


def test_a_truncated_file_is_refused_by_name(copied: tuple[Path, Path]):
    path = copied[1] / "robustness.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(SnnbenchError, match=r"robustness.json: cannot be read"):
        robustness_of_run(copied[1])


@pytest.mark.parametrize("key", ["run_id", "checkpoint_sha256", "data_fingerprint"])
def test_the_audit_of_another_run_is_refused(copied: tuple[Path, Path], key: str):
    data, run = copied
    edited(run, lambda c: c.update({key: "another"}))
    with (
        SpikeDataset.open(data) as dataset,
        pytest.raises(
            SnnbenchError, match=f"robustness.json: {key} is another, that of the record"
        ),
    ):
        stress_run(run, dataset, CPU)


def test_another_engine_neither_goes_on_nor_claims_the_result(copied: tuple[Path, Path]):
    data, run = copied
    with SpikeDataset.open(data) as dataset:
        with pytest.raises(SnnbenchError, match=r"was made with engine \w+, not reference"):
            stress_run(run, dataset, CPU, engine="reference")
        edited(run, lambda c: (c["points"].pop("slower"), c["environment"].update(engine="triton")))
        with pytest.raises(SnnbenchError, match="was begun with engine triton on cpu, and here"):
            stress_run(run, dataset, CPU)


def test_other_data_and_other_weights_are_refused(copied: tuple[Path, Path], tmp_path: Path):
    data, run = copied
    (run / "robustness.json").unlink()
    with (
        SpikeDataset.open(write_dataset(tmp_path / "other.h5")) as dataset,
        pytest.raises(
            SnnbenchError, match=r"other.h5: fingerprint .* is not that of the run's data"
        ),
    ):
        stress_run(run, dataset, CPU)
    with open(run / "model.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with (
        SpikeDataset.open(data) as dataset,
        pytest.raises(SnnbenchError, match=r"model.safetensors: sha256 .* is not the record's"),
    ):
        stress_run(run, dataset, CPU)
    assert not (run / "robustness.json").exists()


# --- the picture


def test_the_picture_has_a_panel_for_each_corruption_with_the_numbers():
    task = load_task("hd")
    models = {
        "one": [audit(dict.fromkeys(CORRUPTIONS, x)) for x in (0.4, 0.5)],
        "two": [audit(dict.fromkeys(CORRUPTIONS, 0.3))],
    }
    figure = robustness_curves(models, task)
    *panels, names = figure.axes
    assert [p.get_title(loc="left") for p in panels] == [c.title for c in CORRUPTIONS.values()]
    jitter = panels[list(CORRUPTIONS).index("time-jitter")]
    assert [t.get_text() for t in jitter.get_xticklabels()] == ["0", "7", "14", "28", "70", "140"]
    lines = [np.asarray(line.get_ydata()) for line in jitter.lines]
    one, two = (line for line in lines if len(line) == 6)
    np.testing.assert_allclose(one, [0.8, *[0.45] * 5])
    np.testing.assert_allclose(two, [0.8, *[0.3] * 5])
    horizontal = sorted(float(line[0]) for line in lines if len(line) == 2)
    assert horizontal == pytest.approx([0.1, 0.8, 0.8])  # chance and what is clean
    written = [text.get_text() for text in names.texts]
    assert "clean 80.0%, robustness 0.50 ± 0.10" in written
    assert "clean 80.0%, robustness 0.29" in written
    crowd = robustness_curves({f"m{i}": models["two"] for i in range(10)}, task)
    written = [text.get_text() for text in crowd.axes[-1].texts]
    assert written[0] == "m0  80.0%, 0.29"
    assert written[7] == "m7  80.0%, 0.29; 2 more"
