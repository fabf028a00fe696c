"""`snnbench train`, `bench` and `eval`: runs and what comes of them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import (
    answer,
    is_local,
    json_option,
    note,
    progress_bar,
    scheduler_option,
    set_option,
    table,
    tracking_uri_option,
)
from snnbench.errors import SnnbenchError, UsageError

if TYPE_CHECKING:
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.models.engines import Engine
    from snnbench.profiling import NoProfile
    from snnbench.record import RunRecord
    from snnbench.seeds import Job, OnBatch, OnEpoch
    from snnbench.spec import RunSpec
    from snnbench.train import BatchReport, EpochReport

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="SpikeDataset file; default: the one that `snnbench data get` makes.",
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
# as in snnbench.models.engines, which is slow to import
ENGINES = click.Choice(["auto", "reference", "cpp", "numba", "triton"])
engine_option = click.option(
    "--engine",
    type=ENGINES,
    default="auto",
    show_default=True,
    help="Implementation of the spiking layers; auto is the fastest one here, or that of a run it goes on"
    " with.",
)
runs_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for run folders; default: SNNBENCH_HOME/runs.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes at a time, each with a seed or a stack of them; default: one per core, or per GPU.",
)
stack_option = click.option(
    "--stack",
    type=click.IntRange(1),
    metavar="N",
    help="Seeds that one process trains at once, at most; 1 is never several. Default: on a GPU with engine"
    " triton as many as fit, else 1 (docs/scale.md).",
)
protocol_option = click.option(
    "--protocol",
    type=click.Choice(["A", "B", "C"]),
    help="Protocol class, if not the task's own: A holds speakers out, B leaves each out in turn to find the"
    " number of epochs, C trains on everything for all epochs (docs/protocol.md).",
)
tuning_option = click.option(
    "--tuning-trials",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Hyperparameter trials spent before, for the record; `snnbench sweep best` tells them.",
)
track_option = click.option(
    "--track/--no-track", default=True, show_default=True, help="Log to MLflow."
)


@click.command("train")
@click.argument("task")
@click.argument("model")
@data_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@device_option
@engine_option
@set_option
@runs_option
@click.option(
    "--resume",
    is_flag=True,
    help="Take a finished run as it is; a stopped one goes on in any case.",
)
@click.option("--overwrite", is_flag=True, help="Throw away what the run folder holds, begin anew.")
@click.option("--profile", is_flag=True, help="Tell where the time of training goes.")
@protocol_option
@tuning_option
@track_option
@tracking_uri_option
@json_option
def train_command(
    task: str,
    model: str,
    data: Path | None,
    seed: int,
    device: str,
    engine: Engine,
    assignments: tuple[str, ...],
    out: Path | None,
    resume: bool,
    overwrite: bool,
    profile: bool,
    protocol: str | None,
    tuning_trials: int,
    track: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Train MODEL on TASK with one seed, and test it once.

    Both are names (`snnbench models list`) or TOML files of your own.

    \b
    Example: snnbench train hd rec-lif --data hd.h5 --seed 0 --set train.lr=1e-3
    """
    from snnbench.bench import RECORD_FILE, finished_record
    from snnbench.models.engines import require_engine
    from snnbench.profiling import Profile
    from snnbench.seeding import resolve_device
    from snnbench.train import RESUME_FILE

    require_engine(engine, resolve_device(device))  # a missing GPU is told before anything else
    with opened_data(task, data, check_model=model) as dataset:
        spec = spec_for(task, model, seed, dataset, with_class(assignments, protocol))
        folder = runs_folder(out) / spec.run_id
        if overwrite and folder.is_dir():
            shutil.rmtree(folder)
        if (record := finished_record(folder)) and not resume:
            raise SnnbenchError(
                f"{folder}: this run is finished, see its {RECORD_FILE};"
                " --overwrite trains it again, another --seed makes another run"
            )
        if record is None and (folder / RESUME_FILE).exists():
            note(f"{folder.name}: goes on where it was stopped; --overwrite would begin anew")
        measured = Profile() if profile and record is None else None
        [record] = run_seeds(
            [spec],
            dataset,
            out=out,
            device=device,
            engine=engine,
            track=track,
            tracking_uri=tracking_uri,
            tuning_trials=tuning_trials,
            profile=measured,
        )
    facts, text = record_facts(record, folder), record_text(record, folder)
    if measured:
        facts["profile"] = measured.facts()
        answer(as_json, facts, profile_text(text, facts["profile"]))
    else:
        if profile:
            note("the run was finished already: nothing was trained, so there is no profile")
        answer(as_json, facts, text)


@click.command("bench")
@click.argument("task")
@click.argument("model")
@data_option
@click.option(
    "--seeds", type=click.IntRange(1), default=10, show_default=True, help="Seeds 0 to N-1."
)
@workers_option
@stack_option
@scheduler_option
@device_option
@engine_option
@set_option
@runs_option
@protocol_option
@tuning_option
@track_option
@tracking_uri_option
@json_option
def bench_command(
    task: str,
    model: str,
    data: Path | None,
    seeds: int,
    workers: int | None,
    stack: int | None,
    scheduler: str,
    device: str,
    engine: Engine,
    assignments: tuple[str, ...],
    out: Path | None,
    protocol: str | None,
    tuning_trials: int,
    track: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Train MODEL on TASK with several seeds under the task's protocol.

    Both are names (`snnbench models list`) or TOML files of your own.

    Finished seeds are taken as they are and unfinished ones continued, so the command may be stopped
    and called again.

    \b
    Example: snnbench bench hd rec-lif --data hd.h5 --seeds 3
    """
    from snnbench.bench import default_seeds
    from snnbench.models.engines import require_engine
    from snnbench.seeding import resolve_device

    if is_local(scheduler, workers, stack):
        require_engine(engine, resolve_device(device))
    with opened_data(task, data, check_model=model) as dataset:
        keys = with_class(assignments, protocol)
        specs = [spec_for(task, model, s, dataset, keys) for s in default_seeds(seeds)]
        records = run_seeds(
            specs,
            dataset,
            out=out,
            device=device,
            engine=engine,
            track=track,
            tracking_uri=tracking_uri,
            workers=workers,
            stack=stack,
            scheduler=scheduler,
            tuning_trials=tuning_trials,
        )
    folders = [runs_folder(out) / spec.run_id for spec in specs]
    facts = [record_facts(r, f) for r, f in zip(records, folders, strict=True)]
    answer(as_json, {"runs": facts, **summary_facts(records)}, bench_text(records, folders))


@click.command("eval")
@click.argument("runs", metavar="RUN...", type=click.Path(path_type=Path), nargs=-1, required=True)
@data_option
@device_option
@click.option(
    "--engine",
    type=ENGINES,
    help="Implementation of the spiking layers; default: the run's own where it runs here, else auto.",
)
@click.option(
    "--corrupt",
    is_flag=True,
    help="Test on changed samples instead: spikes deleted, moved, added, channels lost, other tempi.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the picture of --corrupt; default: pictures in RUN, of several beside the first.",
)
@json_option
def eval_command(
    runs: tuple[Path, ...],
    data: Path | None,
    device: str,
    engine: Engine | None,
    corrupt: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Predict the test split again from the weights in RUN and compare with its record.

    With --corrupt, write robustness.json into RUN: how many test samples are right after fixed changes
    (docs/protocol.md). What is there already is not computed again. Runs that differ by their seed only
    are summed up as one model; all must be of one task and one data file.

    \b
    Example: snnbench eval ~/runs/hd-rec-lif-seed0-1a2b3c4d5e --data hd.h5 --corrupt
    """
    from snnbench.cli.robustness import corrupt_runs

    for run in runs:
        if run.is_file():
            raise SnnbenchError(
                f"{run}: is a file; name the folder of a run, for example {run.parent}"
            )
        if not (run / "record.json").is_file():
            raise SnnbenchError(f"{run}: not a finished run folder, there is no record.json in it")
    if corrupt:
        corrupt_runs(runs, data, device, engine, out, as_json)
        return
    if out:
        raise UsageError(
            "--out is the folder for the picture of --corrupt; without it there is none"
        )
    facts, lines = zip(*(evaluate_run(run, data, device, engine) for run in runs), strict=True)
    answer(as_json, facts[0] if len(runs) == 1 else list(facts), "\n".join(lines))


def evaluate_run(
    run: Path, data: Path | None, device: str, engine: Engine | None
) -> tuple[dict[str, Any], str]:
    """Predict a run's test split again: facts, and the same in a line."""
    from snnbench.bench import engine_of, evaluate_again
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.metrics import count_correct
    from snnbench.models.engines import require_engine
    from snnbench.paths import dataset_path
    from snnbench.record import read_record
    from snnbench.seeding import resolve_device

    record, where = read_record(run / "record.json"), resolve_device(device)
    chosen = require_engine(engine, where) if engine else engine_of(record, where)
    with SpikeDataset.open(data or dataset_path(record.spec.task.dataset)) as dataset:
        record, predictions, different = evaluate_again(run, dataset, where, chosen)
    counts = count_correct(predictions.predictions, predictions.labels)
    facts = {
        "run": str(run),
        "test": counts.model_dump(),
        "recorded": record.test.model_dump() if record.test else None,
        "different_predictions": different,
        "engine": chosen,
        "recorded_engine": record.environment.engine,
    }
    by = record.environment
    if by.engine != chosen:
        note(f"trained with {engine_name(record)}; {chosen} may differ from it by rounding")
    elif different and by.device == where.type == "cpu":
        note("the same device should give the same predictions; a different processor may not")
    return facts, (
        f"{run.name}: {counts.correct} of {counts.total} correct, {counts.accuracy:.2%};"
        f" {different} predictions differ from the record's; engine {chosen}"
    )


@contextmanager
def opened_data(
    task: str, data: Path | None, *, check_model: str, prove: bool = True
) -> Iterator[SpikeDataset]:
    """The task's data file; with `prove` its arrays are read and found whole."""
    from snnbench.bench import check_data
    from snnbench.data_prep.store import SpikeDataset
    from snnbench.paths import dataset_path
    from snnbench.spec import load_model, load_task

    spec = load_task(task)
    load_model(check_model)  # a wrong name is told before minutes of reading
    path = data or dataset_path(spec.dataset)
    if data is None and not path.is_file():
        raise SnnbenchError(
            f"{path}: not there yet; `snnbench data get {spec.dataset}` makes it,"
            " or name a file with --data"
        )
    with SpikeDataset.open(path) as dataset:
        check_data(dataset, spec)
        if prove:
            note(f"{path}: reading, fingerprint {dataset.fingerprint[:16]}")
            dataset.check()
        yield dataset


def spec_for(
    task: str, model: str, seed: int, dataset: SpikeDataset, assignments: tuple[str, ...]
) -> RunSpec:
    """The run's specification with `--set` applied."""
    from snnbench.spec import make_run_spec, parse_overrides

    return make_run_spec(
        task,
        model,
        seed=seed,
        data_fingerprint=dataset.fingerprint,
        overrides=parse_overrides(assignments),
    )


def with_class(assignments: tuple[str, ...], protocol: str | None) -> tuple[str, ...]:
    """`--set` with what `--protocol` sets."""
    return assignments if protocol is None else (*assignments, f"task.protocol={protocol}")


def runs_folder(out: Path | None) -> Path:
    """Where run folders go."""
    from snnbench.paths import home_dir

    return out or home_dir() / "runs"


def run_seeds(
    specs: list[RunSpec],
    dataset: SpikeDataset,
    *,
    out: Path | None,
    device: str,
    track: bool,
    engine: Engine = "auto",
    workers: int | None = None,
    stack: int | None = None,
    scheduler: str = "local",
    tuning_trials: int = 0,
    profile: NoProfile | None = None,
    tracking_uri: str | None = None,
) -> list[RunRecord]:
    """Run every spec that has no record yet, with progress; returns all records."""
    from snnbench.bench import finished_record
    from snnbench.cluster import LOCAL, local_slots
    from snnbench.seeds import Job, run_jobs

    here = scheduler == LOCAL
    if not here and device == "auto":
        device = "cpu"
        note("device auto is the CPU on a Dask cluster; --device cuda asks for its GPUs")
    jobs = []
    for spec in specs:
        folder = runs_folder(out) / spec.run_id
        record = finished_record(folder)
        # elsewhere a worker chooses, and begins anew
        chosen = engine_of_run(folder, engine, device) if here or record else engine
        if record:
            told = f", after {record.tuning_trials} tuning trials" if tuning_trials else ""
            note(f"{folder.name}: finished already{told}, with {engine_name(record)}")
        jobs.append(
            Job(spec, folder, dataset.path, device, track, tuning_trials, chosen, tracking_uri)
        )
    missing = [job for job in jobs if not finished_record(job.folder)]
    in_one = 1
    if missing and here:
        slots = local_slots(device)
        processes = min(workers or slots, len(missing))
        in_one = check_memory(missing, dataset, stack, processes=processes, gpus=slots)
    resumed = {job.spec.run_id: epochs_done(job.folder) if here else 0 for job in missing}
    with training_progress([job.spec for job in missing], resumed) as (on_epoch, on_batch):
        records = run_jobs(
            jobs,
            workers=workers,
            on_epoch=on_epoch,
            on_batch=on_batch,
            profile=profile,
            scheduler=scheduler,
            on_fetched=show_in_mlflow,
            stack=in_one,
        )
    for record in records:
        if record.status == "diverged":
            note(
                f"{record.run_id}: diverged in epoch {record.epochs_run + 1}, loss or gradient is not"
                " finite; it counts as a seed without a correct prediction. A lower train.lr or a"
                " train.gradient_clip may help"
            )
    if len(engines := sorted({engine_name(record) for record in records})) > 1:
        note(f"not all of these seeds were trained alike: with {', '.join(engines)}")
    return records


def show_in_mlflow(job: Job) -> None:
    """Show a run that was trained on another machine, if the job says so; a failure is only told."""
    from snnbench.tracking import default_uri, in_a_line, without_password
    from snnbench.tracking_view import import_folder

    if not job.track:
        return
    uri = job.tracking_uri or default_uri()
    try:
        import_folder(job.folder, uri)
    except Exception as error:  # whatever mlflow and what lies below raise
        note(
            f"MLflow at {without_password(uri)} does not show {job.folder.name}: {in_a_line(error)};"
            f" `snnbench track import {job.folder}` does it later"
        )


def engine_of_run(folder: Path, asked: Engine, device: str) -> Engine:
    """The engine for a run in this folder: `auto` takes what a finished or stopped run has.

    Raises
    ------
    SnnbenchError
        The run there was trained by another engine than the one asked for.
    """
    from snnbench.bench import RECORD_FILE, finished_record
    from snnbench.seeding import resolve_device
    from snnbench.train import engine_for

    if record := finished_record(folder):
        if asked not in ("auto", record.environment.engine):
            raise SnnbenchError(
                f"{folder / RECORD_FILE}: this run was finished with {engine_name(record)}, not {asked};"
                f" take it as it is (without --engine), or train it with {asked} in another folder (--out)"
            )
        return asked
    return engine_for(folder, asked, resolve_device(device))


def engine_name(record: RunRecord) -> str:
    """The engine that a record names, in words."""
    named = record.environment.engine
    return f"engine {named}" if named else "an engine that its record does not name"


def check_memory(
    jobs: list[Job], dataset: SpikeDataset, stack: int | None, *, processes: int, gpus: int
) -> int:
    """Say what training takes in memory, and refuse what does not fit before anything is computed.

    On GPUs the processes are spread over all of them. Returns how many seeds each trains at once, at most:
    `stack`, or what `snnbench.stacks` finds.
    """
    from snnbench.memory import estimate_training, require_memory
    from snnbench.seeding import resolve_device
    from snnbench.seeds import stacks_of
    from snnbench.stacks import seeds_in_a_process

    job = jobs[0]
    device = resolve_device(job.device)
    train, valid = dataset.split("train"), dataset.split("valid")
    estimate = estimate_training(job.spec, train, valid, device.type, job.engine)
    on_one = math.ceil(processes / gpus) if device.type == "cuda" else processes
    most = 1
    if len(jobs) > 1:
        most = seeds_in_a_process(stack, job.spec, estimate, device, job.engine, processes=on_one)
    largest = max(len(s) for s in stacks_of(jobs, most=most, processes=processes))
    at_once = min(processes * largest, len(jobs))
    several = f" for each of {at_once} seeds at a time" if at_once > 1 else ""
    stacked = f", up to {largest} in one process" if largest > 1 else ""
    note(f"training takes about {estimate}{several}{stacked}; engine {job.engine}")
    require_memory(
        estimate, job.spec, device, at_once=min(at_once, on_one * largest), stacked=largest > 1
    )
    return most


def epochs_done(folder: Path) -> int:
    """Epochs that an unfinished run has behind it."""
    from snnbench.bench import read_history
    from snnbench.train import HISTORY_FILE

    path = folder / HISTORY_FILE
    return len(read_history(path).get("epoch", ())) if path.is_file() else 0


@contextmanager
def training_progress(
    specs: list[RunSpec], resumed: Mapping[str, int]
) -> Iterator[tuple[OnEpoch, OnBatch]]:
    """A progress bar over the epochs of all runs, with the last figures, and warnings below it.

    `resumed` tells of each run how many epochs an earlier call has done. The folds of a run of class B are as
    many times its epochs before; how many it then takes itself, they decide.
    """
    if not specs:
        yield (lambda spec, report: None), (lambda spec, report: None)
        return
    first = specs[0]
    several = f"{len(specs)} seeds" if len(specs) > 1 else f"seed {first.seed}"
    total = {spec.run_id: spec.train.epochs for spec in specs}
    done = {run_id: float(epochs) for run_id, epochs in resumed.items()}
    behind = dict(resumed)
    n_folds: dict[str, int] = {}
    # by run and fold: epochs that it had behind it, and has now; several may go on side by side
    folds: dict[str, dict[int, tuple[int, float]]] = {}
    warned: set[tuple[int, str]] = set()
    figures: dict[str, str] = {}
    with progress_bar(f"{first.task.name} {first.model.name} {several}", "epoch") as update:

        def show() -> None:
            so_far = round(sum(done.values()), 1)
            shown = int(so_far) if so_far.is_integer() else so_far
            update(shown, sum(total.values()), resumed=sum(behind.values()), **figures)

        def on_batch(spec: RunSpec, b: BatchReport) -> None:
            run_id, epochs, fold = spec.run_id, spec.train.epochs, b.left_out
            if fold:
                parts = folds.setdefault(run_id, {})
                begun = parts.get(fold.number, (b.epoch - 1, 0.0))[0]
                parts[fold.number] = (begun, b.epoch - 1 + b.samples_done / b.samples)
                # folds before it that nobody tells of are finished: an earlier call has done them
                skipped = (max(parts) - len(parts)) * epochs
                behind[run_id] = skipped + sum(begun for begun, _ in parts.values())
                done[run_id] = skipped + sum(so_far for _, so_far in parts.values())
                n_folds[run_id], total[run_id] = fold.of, (fold.of + 1) * epochs
                figures.update({"seed": str(spec.seed)} if len(specs) > 1 else {})
                figures["fold"] = f"{fold.speaker} {fold.number}/{fold.of}"
            else:
                before = n_folds.get(run_id, 0) * epochs
                figures.pop("fold", None)
                done[run_id] = before + b.epoch - 1 + b.samples_done / b.samples
            if len(specs) == 1:  # of several seeds these figures would flicker
                speed = f"{count_text(b.events_per_s)}/s"
                figures.update(epoch=f"{b.epoch}/{epochs}", loss=f"{b.loss:.3f}", events=speed)
            show()

        def on_epoch(spec: RunSpec, e: EpochReport) -> None:
            before = n_folds.get(spec.run_id, 0) * spec.train.epochs
            done[spec.run_id] = float(before + e.epoch)
            # where patience or time has run out, the rest will not come
            last = e.epoch if e.is_last(spec.train) else e.epochs
            total[spec.run_id] = before + last
            figures.clear()  # so that what a batch tells stands in this order, too
            if len(specs) > 1:
                figures["seed"] = str(spec.seed)
            figures.update(
                epoch=f"{e.epoch}/{e.epochs}",
                loss=f"{e.loss:.3f}",
                train=f"{e.train.accuracy:.3f}",
                valid=f"{e.valid.accuracy:.3f}" if e.valid else "none",
                Hz=" ".join(count_text(rate, digits=2) for rate in e.rate_hz.values()),
                events=f"{count_text(e.events_per_s)}/s",
            )
            show()
            for warning in e.warnings:
                kind = (spec.seed, warning.partition(":")[0])
                if kind not in warned:
                    warned.add(kind)
                    note(f"\nseed {spec.seed}, epoch {e.epoch}: {warning}")

        show()
        yield on_epoch, on_batch


def count_text(number: float, digits: int = 3) -> str:
    """A number in so many digits, but for those before the point: 0.07, 812, 45.2k, 7.31M."""
    size, letter = next(
        ((size, letter) for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= size),
        (1, ""),
    )
    value = number / size
    return f"{value:.0f}{letter}" if value >= 10 ** (digits - 1) else f"{value:.{digits}g}{letter}"


def profile_text(head: str, profile: Mapping[str, Any]) -> Any:
    """A profile as a table below what a run came to."""
    from rich.console import Group

    rows = [
        [
            p["part"],
            f"{p['share']:6.1%}",
            f"{p['ms_per_step']:11.3f}",
            p["calls"],
            f"{p['seconds']:7.2f}",
        ]
        for p in profile["parts"]
    ]
    columns = ["part", "share", "ms per step", "calls", "seconds"]
    title = "{steps} training steps in {seconds:.2f} s, engine {engine}".format(**profile)
    return Group(head, "", title, table(None, columns, rows))


def record_facts(record: RunRecord, folder: Path) -> dict[str, Any]:
    """A record for `--json`, with its folder."""
    return {"folder": str(folder), "record": record.model_dump(mode="json")}


def summary_facts(records: list[RunRecord]) -> dict[str, Any]:
    """Mean, spread and interval over seeds; a diverged seed counts as without a correct prediction."""
    from snnbench.metrics import summarise

    summary = summarise([r.test.accuracy if r.test else 0.0 for r in records])
    numbers = {k: None if v != v else v for k, v in summary._asdict().items()}
    return {"seeds": len(records), "accuracy": numbers}


def record_text(record: RunRecord, folder: Path) -> str:
    """A finished run in a few lines."""
    from snnbench.metrics import binomial_interval

    if record.test is None or record.operations is None:
        return f"{record.run_id}: {record.status} after {record.epochs_run} epochs\n{folder}"
    hidden = record.operations.spikes
    spikes = f"{sum(hidden.values()):.0f} hidden spikes" if hidden else "no hidden spikes"
    groups = ", ".join(f"{name} {c.accuracy:.1%}" for name, c in record.test_by_group.items())
    low, high = binomial_interval(record.test)
    heard = record.heard_before()
    if len(heard) == 2:
        groups += f"; heard in training {heard['seen'].accuracy:.1%}, others {heard['unseen'].accuracy:.1%}"
    return "\n".join(
        [
            f"{record.run_id}: epoch {record.chosen_epoch} of {record.epochs_run}, {how_chosen(record)}",
            f"test {record.test.accuracy:.2%} ({record.test.correct} of {record.test.total},"
            f" read once; 95% interval for these samples {low:.1%} to {high:.1%})",
            f"by speaker: {groups}",
            f"{spikes} and {record.operations.effective_acs:.3g} accumulates per"
            f" sample, {record.n_parameters} parameters, {record.seconds_per_epoch:.1f} s per epoch",
            str(folder),
        ]
    )


def how_chosen(record: RunRecord) -> str:
    """What decided on the epoch, by protocol class."""
    if record.protocol == "C" or record.validation is None:
        return "fixed before"
    found = f"{record.validation.accuracy:.2%}"
    if record.protocol == "B":
        return (
            f"as many as are best where each of {len(record.folds)} speakers is left out ({found})"
        )
    return f"chosen on validation ({found})"


def bench_text(records: list[RunRecord], folders: list[Path]) -> Any:
    """Seeds in a table, the mean below."""
    from rich.console import Group

    rows = []
    for r in records:
        spikes = r.operations.spikes if r.operations else {}
        valid = f"{r.validation.accuracy:.2%}" if r.validation else ""
        test = f"{r.test.accuracy:.2%}" if r.test else r.status
        counts = f"{r.test.correct}/{r.test.total}" if r.test else ""
        epoch = r.chosen_epoch or r.epochs_run
        rows.append(
            [
                r.spec.seed,
                epoch,
                valid,
                test,
                counts,
                round(sum(spikes.values())) if spikes else "–",
                round(r.seconds_per_epoch, 1),
            ]
        )
    columns = ["seed", "epoch", "validation", "test", "correct", "spikes", "s/epoch"]
    facts = summary_facts(records)["accuracy"]
    spread = "" if facts["sd"] is None else f" ± {facts['sd']:.2%} (sd over seeds)"
    spec = records[0].spec
    synthetic = ", synthetic data" if spec.task.synthetic else ""
    head = f"{spec.model.name} on {spec.task.name}{synthetic}, protocol class {spec.task.protocol}"
    tail = [
        f"test accuracy {facts['mean']:.2%}{spread}, {len(records)} seeds",
        f"{folders[0].parent}",
    ]
    return Group(head, table(None, columns, rows), "\n".join(tail))
