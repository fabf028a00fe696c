"""Leaderboards for the terminal. Text of entries is never read as markup or control codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snnbench.leaderboards.energy import ENERGY_MODELS, energies
from snnbench.leaderboards.literature import LiteratureRow
from snnbench.leaderboards.render import (
    COLUMNS,
    LITERATURE_COLUMNS,
    LITERATURE_LEGEND,
    LITERATURE_TITLE,
    SYNTHETIC,
    cells,
    columns_of,
    explained,
    legend,
    literature_cells,
    plain,
)
from snnbench.leaderboards.table import Table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

_GAP = 3  # characters between columns
_FEWEST = 3  # rank, entry, accuracy


@dataclass(frozen=True)
class TerminalTables:
    """Tables that rich draws as wide as the terminal allows."""

    tables: tuple[Table, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich import box
        from rich.table import Table as Grid
        from rich.text import Text

        for position, table in enumerate(self.tables):
            mark = f"  {SYNTHETIC}" if table.task.synthetic else ""
            yield Text.assemble(
                "\n" if position else "", (table.task.title, "bold"), (mark, "yellow")
            )
            columns = _layout(table, options.max_width)
            grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
            for key, lines in columns.items():
                left = key in ("entry", "status", "data", "origin")
                # rich left alone would rather cut the figures than wrap a title
                grid.add_column(
                    COLUMNS[key], justify="left" if left else "right", width=_width(key, lines)
                )
            for texts in zip(*columns.values(), strict=True):
                grid.add_row(*(Text(text, no_wrap=True) for text in texts))
            yield grid
            yield Text(legend(table), "dim")


@dataclass(frozen=True)
class TerminalLiterature:
    """Published results by task, which rich draws apart from any board."""

    literature: Mapping[str, Sequence[LiteratureRow]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich import box
        from rich.table import Table as Grid
        from rich.text import Text

        for task, rows in self.literature.items():
            yield Text.assemble("\n", (f"{LITERATURE_TITLE}: {task}", "bold"))
            grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
            for key, title in LITERATURE_COLUMNS.items():
                numeric = key in ("year", "accuracy", "parameters")
                # names, sources and notes wrap where the terminal is narrow; figures do not
                wraps = key in ("name", "source", "note")
                grid.add_column(title, justify="right" if numeric else "left", no_wrap=not wraps)
            for row in rows:
                grid.add_row(*(Text(plain(text)) for text in literature_cells(row).values()))
            yield grid
            marks, protocols = explained(rows)
            for line in (LITERATURE_LEGEND, f"Known from: {marks}.", f"Epoch chosen: {protocols}."):
                yield Text(line, "dim")


@dataclass(frozen=True)
class TerminalEnergy:
    """Energy of a sample by a published model, which rich draws apart from any board."""

    tables: tuple[Table, ...]
    model: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich import box
        from rich.table import Table as Grid
        from rich.text import Text

        model = ENERGY_MODELS[self.model]
        yield Text.assemble("\n", (f"Energy of synaptic operations, {self.model}", "bold"))
        grid = Grid("Task", "Entry", box=box.SIMPLE_HEAD, pad_edge=False)
        grid.add_column("µJ per sample", justify="right")
        for table in self.tables:
            for row in energies(table, model):
                joules = row["energy_j"]
                told = "–" if joules is None else f"{1e6 * joules:.3g}"
                grid.add_row(row["task"], Text(plain(row["entry"])), told)
        yield grid
        yield Text(
            f"{1e12 * model.accumulate_j:g} pJ an accumulate, {1e12 * model.multiply_accumulate_j:g} pJ a"
            f" multiply-accumulate; {model.source}. An estimate, never ranked.",
            "dim",
        )


def _layout(table: Table, width: int) -> dict[str, list[str]]:
    """Cells by column: on one line, else on two, then without as many last columns as do not fit."""
    rows = [cells(row) for row in table.rows]
    whole = {key: [plain(row[key]) for row in rows] for key in columns_of(table, COLUMNS)}
    folded = {
        key: [text.replace(" (", "\n(", 1).replace(" [", "\n[", 1) for text in texts]
        for key, texts in whole.items()
    }
    if _fits(whole, width):
        return whole
    while not _fits(folded, width) and len(folded) > _FEWEST:
        folded.popitem()
    return folded


def _fits(columns: dict[str, list[str]], width: int) -> bool:
    return sum(_width(key, texts) + _GAP for key, texts in columns.items()) <= width


def _width(key: str, texts: list[str]) -> int:
    """Characters a column needs; its title may take several lines."""
    return max(len(part) for text in texts for part in [*text.split("\n"), *COLUMNS[key].split()])
