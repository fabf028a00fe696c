"""What every verb shares: answers on stdout, notes and progress on stderr, `--json`, `--set`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from snnbench.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Add `--json`, passed on as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the answer as JSON on stdout, and only that."
    )(command)


def tracking_uri_option(command: Command) -> Command:
    """Add `--tracking-uri`, passed on as `tracking_uri`, None where it is not given."""

    def checked(context: click.Context, parameter: click.Parameter, uri: str | None) -> str | None:
        if uri is None:
            return None
        from snnbench.tracking import checked_uri

        return checked_uri(uri)

    return click.option(
        "--tracking-uri",
        metavar="URI",
        callback=checked,
        help="MLflow server (http://HOST:PORT) or database (sqlite:///FILE); default: MLFLOW_TRACKING_URI,"
        " or SNNBENCH_HOME/mlflow.db.",
    )(command)


scheduler_option = click.option(
    "--scheduler",
    metavar="local|tcp://HOST:PORT",
    default="local",
    show_default=True,
    help="Where it is computed: in processes here, or by the workers of a running Dask scheduler"
    " (docs/scale.md).",
)


def set_option(command: Command) -> Command:
    """Add `--set KEY=VALUE`, passed on as the tuple `assignments`."""
    return click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a key of the specification, for example --set train.lr=1e-3. May be repeated.",
    )(command)


def is_local(scheduler: str, workers: int | None, stack: int | None = None) -> bool:
    """Whether `--scheduler` means this machine; UsageError where it means nothing, or does not go with the
    others.
    """
    from snnbench.cluster import LOCAL, check_scheduler

    check_scheduler(scheduler)
    if scheduler != LOCAL and workers:
        raise UsageError(
            f"--workers: a Dask cluster has the workers it has; leave it out with --scheduler {scheduler}"
        )
    if scheduler != LOCAL and stack not in (None, 1):
        raise UsageError(
            f"--stack: a worker of a Dask cluster trains one seed at a time; leave it out with --scheduler"
            f" {scheduler}"
        )
    return scheduler == LOCAL


def answer(as_json: bool, data: Any, text: Any) -> None:
    """Print the answer: `data` as JSON, or `text` (a string or something rich can draw)."""
    if as_json:
        text = json.dumps(data, indent=1, ensure_ascii=False)
    elif not isinstance(text, str):
        text = _drawn(text)
    try:
        click.echo(text)
    except BrokenPipeError:
        # the reader of our output (head, less) has left: not an error, and nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _drawn(text: Any) -> str:
    from rich.console import Console

    # without a terminal, as wide as the table needs, so that a file or a pipe gets whole lines
    console = Console() if sys.stdout.isatty() else Console(width=200)
    with console.capture() as captured:
        console.print(text)
    return captured.get().removesuffix("\n")


def note(text: str) -> None:
    """A line for the person watching, on stderr, above a progress bar where there is one."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        click.echo(text, err=True)


@contextmanager
def progress_bar(
    description: str, unit: str, *, scale: bool = False
) -> Iterator[Callable[..., None]]:
    """Progress on stderr: a bar in a terminal, a line every half minute in a log file.

    `unit` is one thing that is counted, as in "1.3epoch/s" or "7.2s/epoch".

    Yields `update(done, total, stage=..., resumed=..., **figures)`. Another `stage` starts the bar
    anew under that name. The `resumed` part of `done`, made by an earlier attempt, is not counted
    into the speed. `scale` writes large numbers as k, M, G.
    """
    from tqdm import tqdm

    in_terminal = sys.stderr.isatty()
    layout = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
    with tqdm(
        desc=description,
        unit=unit,
        unit_scale=scale,
        mininterval=0.2 if in_terminal else 30,
        smoothing=0,  # shards and files come in bursts: the mean says best how long it will take
        delay=1e-9,  # nothing is shown before there is something to show
        dynamic_ncols=True,
        file=None if in_terminal else _Lines(),
        bar_format=None if in_terminal else layout,
    ) as bar:

        def update(
            done: float,
            total: float | None = None,
            *,
            stage: str = description,
            resumed: float = 0,
            **figures: Any,
        ) -> None:
            if bar.desc != stage:
                bar.set_description_str(stage, refresh=False)
                bar.initial = 0
                bar.reset(total)
            if total is not None and bar.total != total:
                bar.total = total
            if resumed > bar.initial:
                bar.initial = bar.n = bar.last_print_n = resumed
                bar.start_t = bar.last_print_t = time.time()
            if figures:
                bar.set_postfix(figures, refresh=False)
            bar.n = done  # added up, whole numbers would end as 12.0
            bar.update(0)

        try:
            yield update
        finally:
            bar.leave = bar.total is not None or bar.n > 0  # nothing to show stays unseen
        if in_terminal and bar.leave:
            bar.refresh()


class _Lines:
    """Stderr for a progress bar without a terminal: every refresh is a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            click.echo(line, err=True)

    def flush(self) -> None:
        sys.stderr.flush()


def table(title: str | None, columns: list[str], rows: list[list[Any]]) -> Any:
    """A rich table; columns whose every value is a number are set to the right."""
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for i, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        # the first column is what a row is called by: it is never cut
        drawn.add_column(name, justify="right" if numeric else "left", no_wrap=i == 0)
    for row in rows:
        drawn.add_row(*("" if value is None else str(value) for value in row))
    return drawn
