"""Leaderboards as Markdown, CSV and one self-contained HTML page.

Equal boards give equal bytes: no clock, no random ids. Entry text is written by others, so the template
escapes everything, links only http addresses, and the page's policy runs no script but its own.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from snnbench.errors import UsageError
from snnbench.leaderboards.chart import (
    COSTS,
    Mark,
    accuracy_axis,
    axes,
    draw,
    literature_marks,
    row_marks,
)
from snnbench.leaderboards.commands import training_commands
from snnbench.leaderboards.details import details_of, duration, short
from snnbench.leaderboards.literature import MARKS, PROTOCOLS, LiteratureRow
from snnbench.leaderboards.robustness_view import robustness_text
from snnbench.leaderboards.table import Row, Table, data_digest
from snnbench.spec import load_task

COLUMNS = {
    "place": "Rank",
    "entry": "Entry",
    "accuracy": "Accuracy %",
    "robustness": "Robustness",
    "seeds": "Seeds",
    "spikes": "Spikes per sample",
    "parameters": "Parameters",
    "epoch": "s per epoch",
    "status": "Status",
    "data": "Data",
    "origin": "Board",
}
PAGE_COLUMNS = {
    "place": "Rank",
    "entry": "Entry",
    "accuracy": "Accuracy %",
    "robustness": "Robustness",
    "seeds": "Seeds",
    "spikes": "Spikes per sample",
    "parameters": "Parameters",
    "training": "Training",
    "epoch": "s per epoch",
    "status": "Status",
    "data": "Data",
    "origin": "Board",
}
"""The page has room for one more."""
SYNTHETIC = "SYNTHETIC DATA"
LITERATURE_COLUMNS = {
    "name": "Result",
    "year": "Year",
    "accuracy": "Accuracy %",
    "parameters": "Parameters",
    "protocol": "Epoch chosen",
    "mark": "Known from",
    "source": "Source",
    "note": "Note",
}
LITERATURE_TITLE = "Published results, not verified"
LITERATURE_LEGEND = (
    "Other people's numbers as they gave them, newest first: no predictions were seen, they have no rank,"
    " and rules differ."
)


def render_board(
    tables: Sequence[Table], literature: Mapping[str, Sequence[LiteratureRow]] | None = None
) -> dict[str, str]:
    """File name to content: `<task>.md` and `<task>.csv` for each task, and index.html.

    `literature` has published results by task name; they stand apart and have no rank.
    """
    files: dict[str, str] = {}
    for task, group in groupby(tables, key=lambda table: table.task.name):
        same_task = list(group)
        files[f"{task}.md"] = markdown(same_task, (literature or {}).get(task, ()))
        files[f"{task}.csv"] = comma_separated(same_task)
    files["index.html"] = page(tables, literature)
    return files


def cells(row: Row) -> dict[str, str]:
    """The text of every column of a row, the same in the terminal, in Markdown and on the page."""
    model = row.entry.model
    spikes = row.spikes
    diverged = f" ({row.n_diverged} diverged)" if row.n_diverged else ""
    return {
        "place": row.place,
        "entry": row.entry.name if model == row.entry.name else f"{row.entry.name} ({model})",
        "accuracy": accuracy_text(row),
        "robustness": robustness_text(row),
        "seeds": f"{len(row.records)}{diverged}",
        "spikes": f"{spikes.mean:,.0f}" if spikes else "–",
        "parameters": f"{row.n_parameters:,}",
        "epoch": f"{row.seconds_per_epoch:.3g}",
        "status": row.status,
        "data": row.data_agrees,
        "origin": row.origin,
    }


def columns_of(table: Table, columns: Mapping[str, str]) -> dict[str, str]:
    """Those of `columns` that say something of this table: robustness where any row has it."""
    return {k: title for k, title in columns.items() if k != "robustness" or table.has_robustness}


def accuracy_text(row: Row) -> str:
    """Mean ± standard deviation and [95 % interval of the mean], in per cent."""
    mean, sd, _ = row.accuracy
    if math.isnan(sd):
        return f"{100 * mean:.2f}"
    low, high = interval(row)
    return f"{100 * mean:.2f} ± {100 * sd:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def interval(row: Row) -> tuple[float, float]:
    """95 % interval of the mean accuracy within 0 to 1."""
    mean, _, half = row.accuracy
    return max(0.0, mean - half), min(1.0, mean + half)


def legend(table: Table) -> str:
    """What a reader must know to read the numbers of a table."""
    task = table.task
    robustness = (
        " Robustness: share of the accuracy above chance that is left on changed test samples (1: nothing is"
        " lost, 0: chance)."
    )
    return (
        f"Task {task.name} version {task.version}, protocol {task.protocol}, data"
        f" {data_digest(table.data)}. Mean ± standard deviation over seeds [95 % interval of the mean];"
        f" a rank needs {task.min_seeds} seeds.{robustness if table.has_robustness else ''}"
    )


def markdown(tables: Sequence[Table], literature: Sequence[LiteratureRow] = ()) -> str:
    """One task as Markdown: verified rows, and published results below them under their own heading."""
    lines = [f"# {plain(tables[0].task.title)}", ""]
    for table in tables:
        if table.task.synthetic:
            lines += [
                f"**{SYNTHETIC}**: made by a program, not recorded.",
                "",
            ]
        lines += [legend(table), ""]
        columns = columns_of(table, COLUMNS)
        lines += ["| " + " | ".join(columns.values()) + " |"]
        lines += ["|" + "|".join("---" for _ in columns) + "|"]
        for row in table.rows:
            texts = cells(row)
            lines.append("| " + " | ".join(_markdown_cell(texts[key]) for key in columns) + " |")
        lines.append("")
    lines += [
        "Rows that Welch's t-test at p < 0.05 does not separate from the best of their group share a"
        " rank; of them, reproduced ones (somebody else has trained a seed again, and it came out) stand"
        " first. Generated by `snnbench board build`; do not edit.",
        "",
    ]
    return "\n".join(lines + (_markdown_literature(literature) if literature else []))


def literature_cells(row: LiteratureRow) -> dict[str, str]:
    """The text of every column of a published result."""
    # as many digits as were printed, and no more
    figures = [row.accuracy] if row.accuracy_sd is None else [row.accuracy, row.accuracy_sd]
    return {
        "name": row.name,
        "year": str(row.year),
        "accuracy": " ± ".join(f"{round(100 * figure, 6):g}" for figure in figures),
        "parameters": "–" if row.parameters is None else f"{row.parameters:,}",
        "protocol": row.protocol,
        "mark": f"[{row.mark}]",
        "source": row.source,
        "note": row.note,
    }


def explained(rows: Sequence[LiteratureRow]) -> tuple[str, str]:
    """What the marks and the protocols of these rows mean."""
    marks = "; ".join(f"[{m}] {text}" for m, text in MARKS.items() if m in {r.mark for r in rows})
    there = {r.protocol for r in rows}
    return marks, "; ".join(f"{p}: {text}" for p, text in PROTOCOLS.items() if p in there)


def _markdown_literature(rows: Sequence[LiteratureRow]) -> list[str]:
    """Lines of the published results, with no rank and nothing that could pass for a verified row."""
    columns = LITERATURE_COLUMNS.values()
    lines = [f"## {LITERATURE_TITLE}", "", LITERATURE_LEGEND, ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "|".join("---" for _ in columns) + "|"]
    for row in rows:
        texts = [_markdown_cell(text) for text in literature_cells(row).values()]
        lines.append("| " + " | ".join(texts) + " |")
    marks, protocols = explained(rows)
    return [*lines, "", f"Known from: {marks}.", "", f"Epoch chosen: {protocols}.", ""]


def comma_separated(tables: Sequence[Table]) -> str:
    """One task as CSV, one line per row of every version and data set."""
    buffer = io.StringIO()
    lines = [
        {
            "task": table.task.name,
            "version": table.task.version,
            "protocol": table.task.protocol,
            "synthetic": str(table.task.synthetic).lower(),
            "data_set": data_digest(table.data),
            **row.as_data(),
        }
        for table in tables
        for row in table.rows
    ]
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def page(
    tables: Sequence[Table], literature: Mapping[str, Sequence[LiteratureRow]] | None = None
) -> str:
    """The whole board as one HTML page that needs no network.

    `literature` has published results by task name; they are drawn apart and have no rank.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("snnbench.leaderboards", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": lambda value: f"{100 * value:.2f}",
        "thousands": lambda value: f"{value:,.0f}",
        "duration": duration,
        "short": short,
    }
    environment.tests["web_address"] = lambda v: (
        isinstance(v, str) and v.startswith(("https://", "http://"))
    )
    style, script = (environment.get_template(f"page.{kind}.j2").render() for kind in ("css", "js"))
    return environment.get_template("page.html.j2").render(
        tasks=_task_views(tables, literature or {}),
        synthetic=SYNTHETIC,
        marks=MARKS,
        protocols=PROTOCOLS,
        style=Markup(style),  # our own files, not an entry's text
        script=Markup(script),
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
    )


def rerun_commands(row: Row) -> str:
    """Shell lines that train the row again; empty where its model is not in the zoo that ships."""
    return training_commands(row.records[0].spec, [record.spec.seed for record in row.records])


def _task_views(
    tables: Sequence[Table], literature: Mapping[str, Sequence[LiteratureRow]]
) -> list[dict[str, Any]]:
    """A tab for every task with rows, then for those of which there are published results only."""
    by_task = {
        name: list(group) for name, group in groupby(tables, key=lambda table: table.task.name)
    }
    names = [
        *by_task,
        *sorted(name for name in literature if literature[name] and name not in by_task),
    ]
    views = []
    for name in names:
        published = list(literature.get(name, ()))
        marks = literature_marks(published, f"{name}-published")
        same_task = by_task.get(name, [])
        views.append(
            {
                "name": name,
                "title": same_task[0].task.title if same_task else _title(name),
                "tables": [_table_view(table, marks) for table in same_task],
                "n_rows": sum(len(table.rows) for table in same_task),
                "published": list(zip(marks, published, strict=True)),
                # a plot of its own only where there is none of verified rows
                "plot": None if same_task else _plot_view(marks, []),
            }
        )
    return views


def _title(task: str) -> str:
    """Of a task that ships; another one's name."""
    try:
        return load_task(task).title
    except UsageError:
        return task


def _table_view(table: Table, published: list[Mark]) -> dict[str, Any]:
    """What the template needs of a table beside the table itself."""
    marks = row_marks(table.rows)
    accuracy = accuracy_axis(marks)
    columns = columns_of(table, PAGE_COLUMNS)
    if len({row.origin for row in table.rows}) == 1:
        columns = {key: title for key, title in columns.items() if key != "origin"}
    return {
        "table": table,
        "columns": columns,
        "rows": [
            {
                "row": row,
                "id": f"{table.key}-{row.key}",
                "cells": cells(row)
                | {
                    "training": duration(row.training_s) if row.training_s is not None else "–",
                },
                "order": _order(row, position),
                "strip": {
                    "interval": [round(100 * accuracy.at(v), 1) for v in mark.accuracy],
                    "seeds": [round(100 * accuracy.at(100 * v), 1) for v in row.accuracies],
                },
                "rerun": rerun_commands(row),
                **details_of(row),
            }
            for position, (row, mark) in enumerate(zip(table.rows, marks, strict=True))
        ],
        "legend": legend(table),
        "strip_range": (accuracy.low, accuracy.high),
        "plot": _plot_view(marks, published),
    }


def _plot_view(marks: list[Mark], published: list[Mark]) -> dict[str, Any] | None:
    """The first drawing, and all axes for the page's script; None where there is nothing to plot."""
    chart = draw(marks, 860, 360)
    if chart is None:
        return None
    return {
        "chart": chart,
        "costs": {c: title for c, title in COSTS.items() if any(c in m.costs for m in marks)},
        "axes": axes(marks),
        "axes_with_published": axes([*marks, *published]) if published else None,
        "marks": [*marks, *published],
    }


def _order(row: Row, position: int) -> dict[str, Any]:
    """By what each column sorts; empty sorts last."""
    return {
        "place": position,
        "entry": row.entry.name,
        "accuracy": row.accuracy.mean,
        "robustness": row.robustness.mean if row.robustness else "",
        "seeds": len(row.records),
        "spikes": row.spikes.mean if row.spikes else "",
        "parameters": row.n_parameters,
        "training": "" if row.training_s is None else row.training_s,
        "epoch": row.seconds_per_epoch,
        "status": row.status,
        "data": row.data_agrees,
        "origin": row.origin,
    }


def _policy_hash(text: str) -> str:
    """The source expression by which a content security policy allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def plain(text: str) -> str:
    """Text on one line without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def _markdown_cell(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#!&~" else c for c in plain(text))
