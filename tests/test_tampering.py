"""One small entry, edited in every way there is: what verification catches, and exactly what it cannot.

Three attackers: one edits a file; one writes a fitting manifest, too; one makes the same edit in every run.
What escapes the last two is listed in docs/protocol.md, and the list is compared here, so that a new field
forces a decision: derive it, or tell readers that it is believed.
"""

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from snnbench.errors import SnnbenchError
from snnbench.leaderboards.add import add_entry
from snnbench.leaderboards.check_record import check_record
from snnbench.leaderboards.copies import in_common, traces_of
from snnbench.leaderboards.entries import (
    MANIFEST,
    entry_files,
    entry_toml,
    manifest_text,
    shipped_tasks,
)
from snnbench.leaderboards.verify import verify_entry
from snnbench.metrics import Counts, all_folds, best_epochs
from snnbench.record import (
    Entry,
    Predictions,
    RunRecord,
    read_entry,
    read_predictions,
    read_record,
    sealed,
    sealed_json,
    sha256_of,
    write_predictions,
    write_record,
)
from snnbench.spec import RunSpec, load_task
from tests.factories import make_record, make_run_folder, predictions_of

TASKS = shipped_tasks()
DOCS = Path(__file__).parents[1] / "docs" / "protocol.md"
N_SAMPLES = 60
RUN = "runs/seed-1.json"
PROOF = "predictions/seed-1.npz"
FREE_KEYS = {"spikes", "layers", "packages", "test_by_group", "activation_sparsity", "folds"}
"""Whose keys are names of layers, packages or speakers."""

Path_ = tuple[str | int, ...]


def make_entry(folder: Path, **keys: Any) -> Path:
    """Two seeds that tell everything a record can."""
    runs = [
        make_run_folder(
            folder / "runs",
            seed=seed,
            n_samples=N_SAMPLES,
            later_figures=True,
            accuracy=0.5,
            **keys,
        )
        for seed in range(2)
    ]
    cover = {"authors": ["A. Turing"], "code": "https://a", "paper": "https://b", "note": "n"}
    return add_entry(runs, folder / "board", TASKS, cover=cover).verified.folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_entry(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def entry(whole: Path, tmp_path: Path) -> Path:
    """A copy to be broken; the folder above it is the task's."""
    return shutil.copytree(whole, tmp_path / whole.parent.name / whole.name)


@pytest.fixture(scope="module")
def workbench(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy for all edits of a record; `verdict` puts everything back."""
    place = tmp_path_factory.mktemp("bench") / whole.parent.name / whole.name
    return shutil.copytree(whole, place)


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in verify_entry(folder, TASKS).problems]


def sign(folder: Path) -> None:
    """A manifest that fits, as a forger would write it."""
    files = [f for f in entry_files(folder) if f != MANIFEST and (folder / f).is_file()]
    hashes = {file: sha256_of((folder / file).read_bytes()) for file in files}
    (folder / MANIFEST).write_text(manifest_text(hashes))


# ---------------------------------------------------------------- every leaf of a record


def leaves(tree: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value that is no object and no list; of long lists the first, the middle and the last."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    elif isinstance(tree, list) and tree:
        for place in sorted({0, 8 if len(tree) > 8 else 0, len(tree) - 1}):
            yield from leaves(tree[place], (*path, place))
    else:
        yield path, tree


def name_of(path: Path_) -> str:
    """`history[].loss`, `environment.packages.*`."""
    parts: list[str] = []
    for before, part in zip((None, *path), path, strict=False):
        if isinstance(part, int):
            parts[-1] += "[]"
        else:
            parts.append("*" if before in FREE_KEYS else part)
    return ".".join(parts)


def kept(value: Any) -> list[Any]:
    """Other values of the same type, near and far."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, 2 * value + 2, 0, -1]
    if isinstance(value, float):
        steps = [value + 1 / n for n in (900, 200)] + [value - 1 / n for n in (900, 200)]
        return [value * (1 + 1e-6), value * 1.5 + 1, 0.0, -1.0, *steps]
    if isinstance(value, str):
        last = "0" if value[-1:] != "0" else "1"
        return [value[:-1] + last, value + "x", "", value.replace("2026", "2025")]
    return [1, 0.5, "x", True, {}]  # null


def broken(value: Any) -> list[Any]:
    """Values of another type, some of them with the same meaning to a lenient reader."""
    if isinstance(value, bool):
        return [int(value), str(value).lower(), [value]]
    if isinstance(value, int):
        return [str(value), value + 0.5, [value], {}, None, value == 1]
    if isinstance(value, float):
        return [str(value), [value], {}, None, "NaN"]
    if isinstance(value, str):
        return [7, [value], {}, None, True]
    return [[1], {"a": 1}]


def edited(tree: Any, path: Path_, edit: Callable[[Any], Any]) -> Any:
    """A copy of a JSON tree in which one value is another."""
    copy = json.loads(json.dumps(tree))
    place = copy
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = edit(place[path[-1]])
    return copy


def contradicts_itself(text: str) -> bool:
    """Whether a record is found wrong without the rest of its entry."""
    try:
        record = RunRecord.model_validate_json(text, strict=True)
    except ValidationError:
        return True
    return any(check_record(RUN, record))


def replaced(tree: Any, path: Path_, value: Any) -> Any:
    """A copy of a JSON tree with this value in one place."""
    return edited(tree, path, lambda _: value)


class Bench:
    """An entry whose runs are edited, judged and put back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        # without their seals, which whoever edits a run makes anew
        self.trees = {file: sealed_json((folder / file).read_text()) for file in self.runs}

    @property
    def runs(self) -> list[str]:
        return ["runs/seed-0.json", RUN]

    def caught(
        self, files: list[str], change: Callable[[Any], Any], *, signed: bool = True
    ) -> bool:
        """Whether verification finds something after `change` has been made to these runs."""
        trees = {self.folder / file: change(self.trees[file]) for file in files}
        # what verification asks of each record alone, first: it needs no files, which is most of the time
        if signed and any(contradicts_itself(json.dumps(tree)) for tree in trees.values()):
            return True
        for path, tree in trees.items():
            path.write_text(json.dumps(sealed(tree)))
        if signed:
            sign(self.folder)
        found = problems(self.folder)
        for path in (*trees, self.folder / MANIFEST):
            path.write_bytes(self.before[path])
        return bool(found)

    def caught_as(self, tree: Any, *, signed: bool = True) -> bool:
        """Whether one run is found wrong that has become this JSON tree."""
        return self.caught([RUN], lambda _: tree, signed=signed)

    def escaping(self, files: list[str], *, below: str | tuple[str, ...] = "") -> set[str]:
        """Names of the leaves of which some edit of the same type, alike in these runs, is not found."""
        escaped: set[str] = set()
        for path, value in leaves(self.trees[RUN]):
            if name_of(path) in escaped or not name_of(path).startswith(below):
                continue
            for i, other in enumerate(kept(value)):
                if other == value:
                    continue

                def change(tree: Any, path: Path_ = path, i: int = i) -> Any:
                    return edited(tree, path, lambda old: kept(old)[i])

                if not self.caught(files, change):
                    escaped.add(name_of(path))
                    break
        return escaped


@pytest.fixture(scope="module")
def bench(workbench: Path) -> Bench:
    assert problems(workbench) == []
    return Bench(workbench)


def listed(heading: str) -> set[str]:
    """The names in code marks in the paragraph of docs/protocol.md that begins so."""
    [paragraph] = [p for p in DOCS.read_text("utf-8").split("\n\n") if p.startswith(f"**{heading}")]
    return set(re.findall(r"`([^`]+)`", paragraph))


def test_every_leaf_is_caught_by_the_manifest(bench: Bench):
    tree = bench.trees[RUN]
    assert len(list(leaves(tree))) > 150
    for path, value in leaves(tree):
        change = replaced(tree, path, kept(value)[0])
        assert bench.caught_as(change, signed=False), path


def test_every_leaf_of_another_type_is_caught_whatever_the_manifest_says(bench: Bench):
    for path, value in leaves(bench.trees[RUN]):
        for other in broken(value):
            change = replaced(bench.trees[RUN], path, other)
            assert bench.caught_as(change), (path, other)


def test_what_escapes_in_one_run_is_what_the_docs_say(bench: Bench):
    assert bench.escaping([RUN]) == listed("Believed of each run")


def test_what_escapes_in_all_runs_alike_is_what_the_docs_say(bench: Bench):
    more = bench.escaping(bench.runs) - listed("Believed of each run")
    assert more == listed("Believed where all runs say the same")


def test_whatever_is_left_out_is_caught_or_says_the_same(bench: Bench):
    def parts(tree: Any, path: Path_ = ()) -> Iterator[Path_]:
        if isinstance(tree, dict):
            for key, value in tree.items():
                yield (*path, key)
                yield from parts(value, (*path, key))

    tree = bench.trees[RUN]
    same = RunRecord.model_validate_json(json.dumps(tree))
    for path in parts(tree):
        change = json.loads(json.dumps(tree))
        place = change
        for part in path[:-1]:
            place = place[part]
        del place[path[-1]]
        try:
            if RunRecord.model_validate_json(json.dumps(change)) == same:
                continue  # a key that has its default
        except ValidationError:
            continue
        believed = "packages" in path[:-1]
        assert bench.caught_as(change) != believed, path


@pytest.mark.parametrize("key", ["history", "latency"])
@pytest.mark.parametrize("place", [0, 3, -1])
def test_lists_that_are_shorter_empty_or_in_another_order_are_caught(
    bench: Bench, key: str, place: int
):
    tree = bench.trees[RUN]
    whole = tree[key]
    shorter = [item for item in whole if item is not whole[place]]
    for other in (shorter, [], whole[::-1], [*whole, whole[place]]):
        assert bench.caught_as(replaced(tree, (key,), other))


def test_a_key_that_stands_twice_is_caught(entry: Path):
    text = (entry / RUN).read_text()
    (entry / RUN).write_text(text.replace('"test_reads": 1', '"test_reads": 2,\n "test_reads": 1'))
    sign(entry)
    assert problems(entry) == [f"{RUN}: cannot be read: test_reads: more than once in one object"]


def test_a_record_of_before_the_later_figures_verifies(tmp_path: Path):
    runs = [make_run_folder(tmp_path / "runs", seed=s, n_samples=N_SAMPLES) for s in range(2)]
    assert add_entry(runs, tmp_path / "board", TASKS, cover={}).verified.ok


def test_input_spikes_are_those_of_the_data_in_every_seed(tmp_path: Path):
    runs = [make_run_folder(tmp_path / "runs", seed=s, n_samples=N_SAMPLES) for s in range(2)]
    record = read_record(runs[1] / "record.json")
    assert record.operations is not None
    # one spike a sample more meets the 128 units of the first layer; no other figure tells of it
    more = {"effective_acs": record.operations.effective_acs + 128}
    operations = record.operations.model_copy(update=more)
    write_record(runs[1] / "record.json", record.model_copy(update={"operations": operations}))
    with pytest.raises(
        SnnbenchError, match=r"tells of 1001\.0 input spikes a sample, .* of 1000\.0"
    ):
        add_entry(runs, tmp_path / "board", TASKS, cover={})


def test_forms_and_what_a_diverged_run_cannot_have():
    def found(record: RunRecord, **changes: Any) -> str:
        return "\n".join(map(str, check_record(RUN, record.model_copy(update=changes))))

    whole = make_record(n_samples=N_SAMPLES, later_figures=True)
    assert "must be 64 hex digits" in found(whole, checkpoint_sha256="f" * 63 + "F")
    diverged = make_record(n_samples=N_SAMPLES, later_figures=True, status="diverged")
    assert found(diverged) == ""
    for key in ("latency", "footprint"):
        assert "must be empty in a diverged run" in found(diverged, **{key: getattr(whole, key)})
    record, _ = class_b(0)
    assert found(record) == ""
    impossible = Counts(correct=201, total=200)
    folds = {**record.folds, "speaker-07": (*record.folds["speaker-07"][:-1], impossible)}
    assert "folds.speaker-07, epoch 12.correct is 201 of 200" in found(record, folds=folds)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"wall_s": -1.0}, "wall_s -1.0 must be from 0"),
    ({"wall_s": 26.9}, "wall_s is 26.9, less than training_s, 27.0"),
    ({"training_s": 27.5, "wall_s": 40.0}, "training_s is 27.5, history has 27.0"),
    ({"seconds_per_epoch": 2.5}, "seconds_per_epoch is 2.5, history has 2.25 on average"),
    ({"started_at": "yesterday"}, "started_at is 'yesterday', no time in ISO 8601"),
    ({"started_at": "2026-01-02T03:04:05"}, "not in UTC"),
    ({"started_at": "2026-01-02T03:04:05+01:00"}, "not in UTC"),
    ({"n_parameters": 92_161}, "n_parameters is 92161, must be 92160"),
    ({"test": Counts(correct=1, total=N_SAMPLES)}, "latency ends with 48 of 60, test is 1 of 60"),
]


@pytest.mark.parametrize(("changes", "told"), WRONG, ids=[told for _, told in WRONG])
def test_each_contradiction_is_told(changes: dict[str, Any], told: str):
    record = make_record(n_samples=N_SAMPLES, later_figures=True).model_copy(update=changes)
    assert any(told in problem.what for problem in check_record(RUN, record))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"deterministic": False}, "only deterministic runs compare"),
        ({"threads": 0}, "threads is 0"),
        ({"commit": None}, "known together or not at all"),
        ({"commit": "HEAD"}, "must be 40 or 64 hex digits"),
        ({"engine": None}, "engine is missing, and layers spike"),
    ],
)
def test_an_environment_that_cannot_be_is_told(changes: dict[str, Any], told: str):
    record = make_record(n_samples=N_SAMPLES, later_figures=True)
    other = record.environment.model_copy(update=changes)
    found = check_record(RUN, record.model_copy(update={"environment": other}))
    assert [told in problem.what for problem in found] == [True]


def shortened(n: int, train_keys: dict[str, Any], **changes: Any) -> str:
    """What is found in a run that ended after n of 12 epochs of 2.25 s; the best is the 9th."""
    record = make_record(n_samples=N_SAMPLES, later_figures=True, train_keys=train_keys)
    history = record.history[:n]
    correct = [round((epoch.validation_accuracy or 0) * 200) for epoch in history]
    update = {
        "history": history,
        "epochs_run": n,
        "chosen_epoch": 1 + correct.index(max(correct)),
        "validation": Counts(correct=max(correct), total=200),
        "training_s": 2.25 * n,
    }
    record = record.model_copy(update={**update, **changes})
    return "\n".join(map(str, check_record(RUN, record)))


def test_training_ends_where_its_rules_end_it():
    assert shortened(12, {}) == ""
    assert "history has 11 epochs; by train.epochs, patience" in shortened(11, {})
    assert shortened(11, {"patience": 2}) == ""
    assert "it ends after 11" in shortened(12, {"patience": 2})
    assert shortened(10, {"minutes": 2.25 * 10 / 60}) == ""
    assert "it ends after 10" in shortened(11, {"minutes": 2.25 * 10 / 60})
    assert "it ends after more" in shortened(9, {"minutes": 2.25 * 10 / 60})
    old: dict[str, Any] = {"history": ()}
    assert "epochs_run is 11, nothing ends training before 12" in shortened(11, {}, **old)
    assert "nothing ends" not in shortened(11, {"patience": 2}, **old)
    folds = {"folds": {"speaker-00": (Counts(correct=1, total=2),)}}
    assert "folds are of class B, the run is of class A" in shortened(12, {}, **folds)
    keys: dict[str, Any] = {"n_samples": N_SAMPLES, "later_figures": True, "status": "diverged"}
    diverged = make_record(train_keys={"minutes": 0.1}, **keys)
    assert [p.what for p in check_record(RUN, diverged)] == [
        "training was over after epoch 3, so it has not diverged"
    ]


# ---------------------------------------------------------------- what decides an epoch, class B


def class_b(seed: int) -> tuple[RunRecord, Predictions]:
    """A run of class B, with two speakers left out in turn."""
    task = load_task("hd").model_copy(update={"protocol": "B"})
    record = make_record(
        task=task, seed=seed, n_samples=N_SAMPLES, accuracy=0.5, later_figures=True
    )
    random = np.random.default_rng(seed)
    folds = {
        name: tuple(Counts(correct=int(random.integers(n)), total=n) for _ in range(12))
        for name, n in (("speaker-00", 900), ("speaker-07", 200))
    }
    n = best_epochs(folds)
    history = tuple(
        e.model_copy(update={"validation_accuracy": None, "train_accuracy": 0.5})
        for e in record.history[:n]
    )
    update = {
        "folds": folds,
        "validation": all_folds(folds, n),
        "chosen_epoch": n,
        "epochs_run": n,
        "history": history,
        "training_s": sum(e.seconds for e in history) + 3.0,
    }
    return record.model_copy(update=update), predictions_of(record.spec, 0.5, N_SAMPLES)


@pytest.fixture(scope="module")
def bench_b(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    place = tmp_path_factory.mktemp("b")
    runs = []
    for seed in range(2):
        record, predictions = class_b(seed)
        runs.append(place / str(seed))
        digest = write_predictions(runs[-1] / "predictions.npz", predictions)
        record = record.model_copy(update={"predictions_sha256": digest})
        write_record(runs[-1] / "record.json", record)
    return Bench(add_entry(runs, place / "board", TASKS, cover={}).verified.folder)


def test_what_escapes_in_class_b_is_what_the_docs_say(bench_b: Bench):
    told_otherwise = ("folds", "training_s", "validation", "chosen_epoch", "epochs_run")
    assert bench_b.escaping([RUN], below=told_otherwise) == listed("Believed of class B besides")


def test_a_speaker_who_was_not_left_out_is_missed(bench_b: Bench):
    tree = bench_b.trees[RUN]
    folds = tree["folds"]
    renamed = {"nobody": folds["speaker-00"], "speaker-07": folds["speaker-07"]}
    assert bench_b.caught_as(replaced(tree, ("folds",), renamed))


# ---------------------------------------------------------------- predictions


def zipped(arrays: dict[str, Any], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", member.getvalue())
    return buffer.getvalue()


def forge(entry: Path, proof: bytes) -> None:
    """Predictions with all hashes that fit them."""
    (entry / PROOF).write_bytes(proof)
    record = read_record(entry / RUN)
    write_record(entry / RUN, record.model_copy(update={"predictions_sha256": sha256_of(proof)}))
    sign(entry)


def one_more(array: Any) -> Any:
    changed = array.copy()
    changed[7] = (changed[7] + 1) % 2
    return changed


def right_for_wrong(arrays: dict[str, Any]) -> Any:
    changed = arrays["predictions"].copy()
    sample = np.flatnonzero(changed != arrays["labels"])[0]
    changed[sample] = arrays["labels"][sample]
    return changed


EDITS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "labels": lambda a: {**a, "labels": one_more(a["labels"])},
    "predictions": lambda a: {**a, "predictions": right_for_wrong(a)},
    "groups": lambda a: {**a, "groups": one_more(a["groups"])},
    "type": lambda a: {**a, "predictions": a["predictions"].astype(np.int64)},
    "byte order": lambda a: {**a, "predictions": a["predictions"].astype(">u2")},
    "shape": lambda a: {**a, "predictions": a["predictions"][None]},
    "one prediction less": lambda a: {**a, "predictions": a["predictions"][:-1]},
    "one sample less": lambda a: {name: array[:-1] for name, array in a.items()},
    "one sample more": lambda a: {n: np.append(v, v[-1:]) for n, v in a.items()},
    "another order of samples": lambda a: {name: array[::-1] for name, array in a.items()},
    "an array more": lambda a: {**a, "logits": a["labels"]},
    "an array less": lambda a: {n: v for n, v in a.items() if n != "groups"},
    "objects": lambda a: {**a, "predictions": a["predictions"].astype(object)},
}


@pytest.mark.parametrize("hashes", ["left alone", "that fit"])
@pytest.mark.parametrize("edit", EDITS)
def test_edited_predictions_are_caught(entry: Path, edit: str, hashes: str):
    arrays = read_predictions(entry / PROOF)._asdict()
    proof = zipped(EDITS[edit](arrays))
    if hashes == "that fit":
        forge(entry, proof)
    else:
        (entry / PROOF).write_bytes(proof)
    assert any("seed-1" in line for line in problems(entry))


def test_an_array_that_stands_twice_is_caught(entry: Path):
    arrays = read_predictions(entry / PROOF)._asdict()
    buffer = io.BytesIO(zipped(arrays))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("labels.npy", b"")
    forge(entry, buffer.getvalue())
    assert any(f"{PROOF}: not a predictions file" in line for line in problems(entry))


def test_the_same_arrays_packed_otherwise_need_hashes_that_fit(entry: Path):
    proof = zipped(read_predictions(entry / PROOF)._asdict())
    (entry / PROOF).write_bytes(proof)
    assert any(f"{PROOF}: sha256 is" in line for line in problems(entry))
    sign(entry)
    assert any(f"{PROOF}: sha256 is" in line for line in problems(entry))
    forge(entry, proof)
    assert problems(entry) == []  # they say the same, and nothing else is said


def test_only_predictions_that_change_no_count_escape_with_hashes_that_fit(entry: Path):
    labels, predicted, groups = read_predictions(entry / PROOF)
    for sample in range(0, N_SAMPLES, 7):
        other = predicted.copy()
        wrong = [c for c in range(20) if c not in (labels[sample], predicted[sample])]
        right = predicted[sample] == labels[sample]
        other[sample] = wrong[0] if right else labels[sample]
        forge(entry, zipped({"labels": labels, "predictions": other, "groups": groups}))
        assert any(line.startswith(f"{RUN}: test is") for line in problems(entry))
    other[sample] = predicted[sample] if right else wrong[0]
    forge(entry, zipped({"labels": labels, "predictions": other, "groups": groups}))
    assert problems(entry) == []


# ---------------------------------------------------------------- the cover sheet


COVER: dict[str, tuple[Any, str | None]] = {
    "schema_version": ("snnbench-entry/2", "entry.toml: schema_version: unknown"),
    "name": ("other", "the folder is called 'ff-lif'"),
    "task": ("shd", "the folder above is 'hd'"),
    "model": ("sota", "entry.toml says 'sota'"),
    "authors": (["B"], None),
    "code": ("https://c", None),
    "paper": ("", None),
    "licence": ("MIT", None),
    "note": ("m", None),
    "provisional": (True, None),
}


def test_every_key_of_the_cover_sheet_is_edited_here():
    assert COVER.keys() == Entry.model_fields.keys()
    escaping = {f"entry.{key}" for key, (_, told) in COVER.items() if told is None}
    assert escaping == listed("Believed of the cover sheet")


@pytest.mark.parametrize("key", COVER)
def test_an_edited_cover_sheet_is_caught(entry: Path, key: str):
    value, told = COVER[key]
    sheet = read_entry(entry / "entry.toml").model_copy(update={key: value})
    (entry / "entry.toml").write_text(entry_toml(sheet))
    assert any(line.startswith("entry.toml: sha256 is") for line in problems(entry))
    sign(entry)
    found = "\n".join(problems(entry))
    assert told in found if told else found == ""


@pytest.mark.parametrize("value", ['"false"', "0", "[]", "1.0"])
def test_a_cover_sheet_with_another_type_is_caught(entry: Path, value: str):
    sheet = (entry / "entry.toml").read_text()
    (entry / "entry.toml").write_text(
        sheet.replace("provisional = false", f"provisional = {value}")
    )
    sign(entry)
    assert any("provisional: input should be" in line for line in problems(entry))


def test_uncommitted_changes_cannot_be_ranked(entry: Path):
    record = read_record(entry / RUN)
    dirty = record.environment.model_copy(update={"dirty": True})
    write_record(entry / RUN, record.model_copy(update={"environment": dirty}))
    sign(entry)
    assert any("uncommitted changes" in line for line in problems(entry))
    sheet = read_entry(entry / "entry.toml").model_copy(update={"provisional": True})
    (entry / "entry.toml").write_text(entry_toml(sheet))
    sign(entry)
    assert problems(entry) == []


# ---------------------------------------------------------------- files and their order


def swap(entry: Path, one: str, other: str) -> None:
    (entry / one).rename(entry / "x")
    (entry / other).rename(entry / one)
    (entry / "x").rename(entry / other)


def swap_runs(entry: Path) -> None:
    swap(entry, "runs/seed-0.json", RUN)


def swap_proofs(entry: Path) -> None:
    swap(entry, "predictions/seed-0.npz", PROOF)


def swap_both(entry: Path) -> None:
    swap_runs(entry)
    swap_proofs(entry)


def swap_seeds_inside(entry: Path) -> None:
    for file, seed in (("runs/seed-0.json", 1), (RUN, 0)):
        tree = json.loads((entry / file).read_text())
        tree["spec"]["seed"] = seed
        tree["run_id"] = RunSpec.model_validate(tree["spec"]).run_id
        (entry / file).write_text(json.dumps(sealed(tree)))


def without_seed_0(entry: Path) -> None:
    (entry / "runs/seed-0.json").unlink()
    (entry / "predictions/seed-0.npz").unlink()


def without_proof(entry: Path) -> None:
    (entry / PROOF).unlink()


def without_run(entry: Path) -> None:
    (entry / RUN).unlink()


def truncate_run(entry: Path) -> None:
    (entry / RUN).write_bytes((entry / RUN).read_bytes()[:-40])


def truncate_proof(entry: Path) -> None:
    (entry / PROOF).write_bytes((entry / PROOF).read_bytes()[:-40])


def link_file(entry: Path) -> None:
    target = (entry / RUN).rename(entry.parent / "elsewhere.json")
    (entry / RUN).symlink_to(target)


def link_folder(entry: Path) -> None:
    target = (entry / "runs").rename(entry.parent / "elsewhere")
    (entry / "runs").symlink_to(target)


def rename_case(entry: Path) -> None:
    (entry / RUN).rename(entry / "runs/Seed-1.json")


def rename_folder_case(entry: Path) -> None:
    (entry / "runs").rename(entry / "Runs")


def rename_manifest_case(entry: Path) -> None:
    (entry / MANIFEST).rename(entry / "manifest.sha256")


def add_text(entry: Path) -> None:
    (entry / "README.md").write_text("trust me")


def add_leading_zero(entry: Path) -> None:
    (entry / "runs/seed-01.json").write_bytes((entry / RUN).read_bytes())


def without_both(entry: Path) -> None:
    for file in ("runs/seed-0.json", RUN, "predictions/seed-0.npz", PROOF):
        (entry / file).unlink()


def rename_seed(entry: Path) -> None:
    (entry / RUN).rename(entry / "runs/seed-2.json")
    (entry / PROOF).rename(entry / "predictions/seed-2.npz")


FILES = [
    swap_runs,
    swap_proofs,
    swap_both,
    swap_seeds_inside,
    without_seed_0,
    without_both,
    without_proof,
    without_run,
    truncate_run,
    truncate_proof,
    link_file,
    link_folder,
    rename_case,
    rename_folder_case,
    rename_manifest_case,
    add_text,
    add_leading_zero,
    rename_seed,
]


@pytest.mark.parametrize("signed", [False, True], ids=["manifest left alone", "manifest fits"])
@pytest.mark.parametrize("change", FILES, ids=lambda f: f.__name__)
def test_files_exchanged_missing_added_or_renamed_are_caught(
    entry: Path, change: Callable[[Path], None], signed: bool
):
    change(entry)
    if signed:
        sign(entry)
    assert problems(entry)


def test_the_last_seed_left_out_escapes_with_a_manifest_that_fits(entry: Path):
    (entry / RUN).unlink()
    (entry / PROOF).unlink()
    assert problems(entry)
    sign(entry)
    assert problems(entry) == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda lines: lines[::-1],
        lambda lines: [*lines, lines[0]],
        lambda lines: lines[:-1],
        lambda lines: [line.upper() for line in lines],
        lambda lines: [*lines, "0" * 64 + "  MANIFEST.sha256\n"],
        lambda lines: [line.replace("  ", " *") for line in lines],
        lambda lines: ["# sha256\n", *lines],
        lambda lines: [],
    ],
    ids=["order", "twice", "one less", "case", "itself", "binary mark", "comment", "empty"],
)
def test_a_manifest_with_other_lines_is_caught(entry: Path, edit: Callable[[list[str]], list[str]]):
    manifest = entry / MANIFEST
    manifest.write_text("".join(edit(manifest.read_text().splitlines(keepends=True))))
    assert problems(entry)


# ---------------------------------------------------------------- a run under another name


def copied(entry: Path, **changes: Any) -> list[str]:
    """Problems of an entry whose seed 2 is its seed 1, named anew, with some more changes."""
    record = read_record(entry / RUN)
    spec = record.spec.model_copy(update={"seed": 2})
    proof = changes.pop("proof", (entry / PROOF).read_bytes())
    (entry / "predictions/seed-2.npz").write_bytes(proof)
    update = {"spec": spec, "run_id": spec.run_id, "predictions_sha256": sha256_of(proof)}
    write_record(entry / "runs/seed-2.json", record.model_copy(update={**update, **changes}))
    sign(entry)
    return problems(entry)


def test_a_seed_copied_under_another_name_is_caught_by_each_thing_it_shares(entry: Path):
    like = f"runs/seed-2.json: has the same {{}}, like {RUN}; every seed is a run of its own"
    assert copied(entry) == [like.format("weights (checkpoint_sha256)")]
    weights = {"checkpoint_sha256": "2" * 64}
    assert copied(entry, **weights) == [like.format("learning curve (history)")]
    history = read_record(entry / RUN).history
    other = history[3].model_copy(update={"loss": 1.0})
    curve = {**weights, "history": (*history[:3], other, *history[4:])}
    assert copied(entry, **curve) == [like.format("predictions")]
    # which of the wrong classes a prediction names is in no count: only training again tells
    labels, predicted, groups = read_predictions(entry / PROOF)
    sample = int(np.flatnonzero(predicted != labels)[0])
    predicted[sample] = next(c for c in range(20) if c not in (labels[sample], predicted[sample]))
    arrays = {"labels": labels, "predictions": predicted, "groups": groups}
    assert copied(entry, **curve, proof=zipped(arrays)) == []


def test_honest_runs_that_agree_are_no_copies():
    runs = [make_record(seed=s, n_samples=N_SAMPLES, later_figures=True) for s in range(2)]
    labels, _, groups = predictions_of(runs[0].spec, 0.5, N_SAMPLES)

    def shared(predictions: np.ndarray, records: list[RunRecord] = runs) -> str | None:
        one, other = (traces_of(r, Predictions(labels, predictions, groups)) for r in records)
        return in_common(one, other)

    some_wrong = labels.copy()
    some_wrong[:20] = (labels[:20] + 1) % 20
    assert shared(some_wrong) == "the same predictions"
    few_wrong = labels.copy()
    few_wrong[:19] = (labels[:19] + 1) % 20
    assert shared(few_wrong) is None
    assert shared(labels) is None
    assert shared(np.zeros_like(labels)) is None  # a network that stays silent
    keys: dict[str, Any] = {"model": "counts", "model_keys": {"kind": "counts"}}
    linear = [make_record(seed=s, n_samples=N_SAMPLES, spikes=None, **keys) for s in range(2)]
    assert shared(some_wrong, linear) is None
    # the loss of guessing, in every epoch of both
    flat = tuple(e.model_copy(update={"loss": 3.0}) for e in runs[0].history)
    silent = [r.model_copy(update={"history": flat}) for r in runs]
    assert shared(labels, silent) is None
