"""Doing a study: jobs side by side, each kept when done; then numbers, verdict, pictures, as files."""

from __future__ import annotations

import dataclasses
import json
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from snnbench.cluster import LOCAL, Cluster, Failure, Wire, Work, open_cluster, seldom
from snnbench.errors import SnnbenchError
from snnbench.metrics import summarise
from snnbench.paths import read_folder, write_folder, write_text
from snnbench.studies.study import Data, Job, Report, Study, Verdict

PARTS = "parts"
"""Folder of the jobs' results, within a study's folder."""


@dataclass(frozen=True)
class Outcome:
    """A study that is done."""

    study: Study
    numbers: dict[str, Any]
    verdict: Verdict
    files: list[Path]
    """Report first, then pictures."""


def run_study(
    study: Study,
    parameters: Any,
    *,
    seeds: Sequence[int],
    data: Data,
    out: Path,
    workers: int,
    on_progress: Callable[[float, int], None],
    trial: bool = False,
    scheduler: str = LOCAL,
) -> Outcome:
    """Do what is not done yet, and write `NAME.json`, `NAME.png`, `NAME.svg` and what else the study draws.

    Parameters
    ----------
    parameters : the study's own, as `with_settings` gives them.
    workers : processes; 1 works in this one.
    on_progress : on_progress(jobs done, with fractions; jobs in all).
    trial : the verdict is withheld: parameters are those of a quick look.
    scheduler : `local`, or a Dask scheduler's address, whose workers then do the jobs. Published data are
        there under the same paths, or a data file by its fingerprint.

    Raises
    ------
    SnnbenchError
        A job failed or was killed. What is done is kept, and the same call goes on with it.
    """
    jobs = study.jobs(parameters, seeds, data)
    # a job that ran before in another study's folder, or with other arguments, is another file
    paths = [out / PARTS / f"{job.key}-{job.digest(study.version)}.json" for job in jobs]
    missing = [(j, p) for j, p in zip(jobs, paths, strict=True) if _kept(p) is None]
    done_before = len(jobs) - len(missing)
    started = time.monotonic()
    on_progress(done_before, len(jobs))

    def progress(done: float) -> None:
        on_progress(done_before + done, len(jobs))

    if scheduler != LOCAL:
        if missing:
            with open_cluster(scheduler) as cluster:
                _side_by_side(cluster, _do_and_send, missing, progress)
    elif min(workers, len(missing)) <= 1:
        for k, (job, path) in enumerate(missing):
            _do(job, path, partial(_part_of, progress, k))
            progress(k + 1)
    else:
        with open_cluster(workers=min(workers, len(missing))) as cluster:
            _side_by_side(cluster, _do_in_worker, missing, progress)
    results = [(j, _kept(p) or {}) for j, p in zip(jobs, paths, strict=True)]
    numbers = study.summarise(parameters, results)
    changed = parameters != study.parameters
    if trial:
        verdict = Verdict(None, "A quick look with --trial: nothing is judged.")
    elif changed or len(seeds) < study.seeds:
        found = study.judge(parameters, numbers)
        why = "parameters were changed" if changed else f"{study.seeds} seeds are asked for"
        verdict = Verdict(None, f"{found.sentence} Not counted as a reproduction: {why}.")
    else:
        verdict = study.judge(parameters, numbers)
    seconds = time.monotonic() - started if missing else None
    files = _write(study, parameters, seeds, numbers, verdict, out, seconds)
    return Outcome(study, numbers, verdict, files)


def read_report(path: Path) -> dict[str, Any]:
    """The report of a study that was done.

    Raises
    ------
    SnnbenchError
        There is none, or it is no report.
    """
    try:
        report = json.loads(path.read_text("utf-8"))
        if not isinstance(report, dict) or "verdict" not in report:
            raise ValueError("no verdict in it")
    except FileNotFoundError:
        raise SnnbenchError(
            f"{path}: no report there; `snnbench reproduce run {path.stem}` writes one"
        ) from None
    except (OSError, ValueError) as error:
        raise SnnbenchError(f"{path}: not the report of a study ({error})") from None
    return report


def _write(
    study: Study,
    parameters: Any,
    seeds: Sequence[int],
    numbers: dict[str, Any],
    verdict: Verdict,
    out: Path,
    seconds: float | None,
) -> list[Path]:
    import matplotlib

    from snnbench import plots
    from snnbench.environment import describe

    pictures = []
    with matplotlib.rc_context(plots.STYLE):
        figures = study.draw(parameters, numbers)
    for end, figure in figures.items():
        stem = study.name + (f"-{end}" if end else "")
        for suffix in (".png", ".svg"):
            pictures.append(out / f"{stem}{suffix}")
            plots.save(figure, pictures[-1])
    if study.films:
        pictures += study.films(parameters, numbers, out)
    report = {
        "study": study.name,
        "shows": study.shows,
        "source": study.source,
        "criterion": study.criterion,
        "verdict": {"seen": verdict.seen, "sentence": verdict.sentence},
        "parameters": dataclasses.asdict(parameters),
        "seeds": list(seeds),
        "numbers": {k: v for k, v in numbers.items() if not k.startswith("_")},
        "pictures": [p.name for p in pictures],
        "seconds": None if seconds is None else round(seconds, 1),
        "date": date.today().isoformat(),
        "environment": describe("cpu", threads=1, deterministic=True).model_dump(mode="json"),
    }
    path = out / f"{study.name}.json"
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return [path, *pictures]


def _kept(path: Path) -> dict[str, Any] | None:
    try:
        result = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None  # what cannot be read is done again
    return result if isinstance(result, dict) else None


def _do(job: Job, path: Path, report: Report) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # jobs, not threads, share the cores
    scratch = path.with_suffix(".checkpoint")
    try:
        result = job.work(job.arguments, report, scratch)
    except SnnbenchError as error:
        raise SnnbenchError(f"{job.key}: {error}") from error
    finally:
        torch.set_num_threads(threads)
    write_text(path, json.dumps(result))
    scratch.unlink(missing_ok=True)


def _side_by_side(
    cluster: Cluster[Any],
    work: Work,
    missing: Sequence[tuple[Job, Path]],
    progress: Callable[[float], None],
) -> None:
    fractions: dict[str, float] = {}

    def heard(piece: tuple[Job, Path], fraction: float) -> None:
        fractions[piece[0].key] = fraction
        progress(sum(fractions.values()))

    def done(piece: tuple[Job, Path], outcome: Any) -> None:
        if isinstance(outcome, Failure):
            raise outcome.as_error(
                f"{piece[0].key}: a job's process was killed ({outcome.message}; out of memory?); what"
                " is done is kept, run the same command again, perhaps with fewer --workers"
            )
        if outcome is not None:
            write_folder(piece[1].parent, outcome, last=piece[1].name)
        heard(piece, 1.0)

    cluster.run(work, missing, heard=heard, done=done)


def _do_in_worker(piece: tuple[Job, Path], wire: Wire) -> None:
    job, path = piece
    _do(job, path, seldom(wire.tell))


def _do_and_send(piece: tuple[Job, Path], wire: Wire) -> dict[str, bytes]:
    """What another machine does: the result's file, and what else the job has left beside it."""
    job, path = piece
    with tempfile.TemporaryDirectory(prefix="snnbench-") as folder:
        try:
            _do(job, Path(folder) / path.name, seldom(wire.tell))
        except SnnbenchError as error:
            raise SnnbenchError(f"host {platform.node()}: {error}") from error
        return read_folder(Path(folder))


def _part_of(progress: Callable[[float], None], before: int, fraction: float) -> None:
    progress(before + fraction)


def mean_and_interval(values: Sequence[float]) -> Mapping[str, float]:
    """Mean, standard deviation and half the 95 % interval of the mean, 0 for a single value; n of them."""
    mean, sd, half = summarise(values)
    several = len(values) > 1
    return {
        "mean": mean,
        "sd": sd if several else 0.0,
        "half_width_95": half if several else 0.0,
        "n": len(values),
    }
