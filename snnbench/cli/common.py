"""What every verb shares: answers on stdout, notes and progress on stderr, `--json`, `--set`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Add `--json`, passed on as `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the answer as JSON on stdout, and only that."
    )(command)


def set_option(command: Command) -> Command:
    """Add `--set KEY=VALUE`, passed on as the tuple `assignments`."""
    return click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a key of the specification, for example --set train.lr=1e-3. May be repeated.",
    )(command)


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
    """A line for the person watching, on stderr."""
    click.echo(text, err=True)


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr; yields `update(done, total, **figures)`."""
    from tqdm import tqdm

    # into a log file a line every 30 s is enough
    interval = 0.2 if sys.stderr.isatty() else 30
    with tqdm(desc=description, unit=unit, mininterval=interval, dynamic_ncols=True) as bar:

        def update(done: float, total: float | None = None, **figures: Any) -> None:
            if total is not None and bar.total != total:
                bar.total = total
            if figures:
                bar.set_postfix(figures, refresh=False)
            bar.update(done - bar.n)

        yield update
        bar.refresh()


def table(title: str | None, columns: list[str], rows: list[list[Any]]) -> Any:
    """A rich table; columns whose every value is a number are set to the right."""
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for i, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        drawn.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        drawn.add_row(*("" if value is None else str(value) for value in row))
    return drawn
