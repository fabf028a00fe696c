"""Doing a study: jobs side by side, each kept when done; then numbers, verdict, pictures, as files."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import queue
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from snnbench.errors import SnnbenchError
from snnbench.paths import write_text
from snnbench.studies.study import Data, Job, Report, Study, Verdict

PARTS = "parts"
"""Folder of the jobs' results, within a study's folder."""

_TELL_EVERY_S = 0.2


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
) -> Outcome:
    """Do what is not done yet, and write `NAME.json`, `NAME.png`, `NAME.svg` and what else the study draws.

    Parameters
    ----------
    parameters : the study's own, as `with_settings` gives them.
    workers : processes; 1 works in this one.
    on_progress : on_progress(jobs done, with fractions; jobs in all).
    trial : the verdict is withheld: parameters are those of a quick look.

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

    if min(workers, len(missing)) <= 1:
        for k, (job, path) in enumerate(missing):
            _do(job, path, partial(_part_of, progress, k))
            progress(k + 1)
    else:
        _side_by_side(missing, workers, progress)
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
    missing: Sequence[tuple[Job, Path]], workers: int, progress: Callable[[float], None]
) -> None:
    # spawn: a forked child would inherit locks of torch's threads
    context = multiprocessing.get_context("spawn")
    reports: Any = context.Queue()
    fractions: dict[str, float] = {}
    pool = ProcessPoolExecutor(
        min(workers, len(missing)), mp_context=context, initializer=_start, initargs=(reports,)
    )
    try:
        waiting: set[Future[None]] = {pool.submit(_do_in_worker, j, p) for j, p in missing}
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            _drain(reports, fractions)
            for future in done:
                future.result()
            progress(sum(fractions.values()))
        progress(len(missing))
    except BrokenProcessPool:
        raise SnnbenchError(
            "a job's process was killed (out of memory?); what is done is kept, run the same command"
            " again, perhaps with fewer --workers"
        ) from None
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_reports: Any = None  # a worker's end of the queue; set once in each worker process


def _start(reports: Any) -> None:
    global _reports
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides


def _do_in_worker(job: Job, path: Path) -> None:
    told_at = 0.0

    def report(fraction: float) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _TELL_EVERY_S:
            told_at = time.monotonic()
            _reports.put((job.key, fraction))

    _do(job, path, report)
    _reports.put((job.key, 1.0))


def _drain(reports: Any, fractions: dict[str, float]) -> None:
    while True:
        try:
            key, fraction = reports.get_nowait()
        except queue.Empty:
            return
        fractions[key] = fraction


def _part_of(progress: Callable[[float], None], before: int, fraction: float) -> None:
    progress(before + fraction)


def mean_and_interval(values: Sequence[float]) -> Mapping[str, float]:
    """Mean, standard deviation and half the 95 % interval of the mean (Student's t); n of them."""
    import numpy as np
    from scipy import stats

    x = np.asarray(values, float)
    sd = float(x.std(ddof=1)) if len(x) > 1 else 0.0
    half = float(stats.t.ppf(0.975, len(x) - 1) * sd / len(x) ** 0.5) if len(x) > 1 else 0.0
    return {"mean": float(x.mean()), "sd": sd, "half_width_95": half, "n": len(x)}
