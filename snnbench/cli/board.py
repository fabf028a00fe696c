"""`snnbench board`: add runs to a leaderboard, verify it, build its pages, show it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.board_reproduce import reproduce
from snnbench.cli.common import answer, json_option, note

if TYPE_CHECKING:
    from snnbench.leaderboards.literature import LiteratureRow
    from snnbench.leaderboards.table import Table
    from snnbench.leaderboards.verify import Verified

board_option = click.option(
    "--board",
    type=click.Path(path_type=Path),
    help="Folder of entries. Default: the shipped ones and your own in SNNBENCH_HOME/board.",
)


@click.group("board")
def board_command() -> None:
    """Leaderboards: every number follows from stored predictions.

    \b
    Example: snnbench board show
    """


board_command.add_command(reproduce)


@board_command.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", help="Name of the row; default: the model's.")
@click.option("--authors", multiple=True, metavar="NAME", help="May be repeated.")
@click.option("--note", "note_text", metavar="TEXT", help="A sentence shown with the row.")
@click.option(
    "--entry",
    type=click.Path(path_type=Path),
    help="entry.toml with name, authors, paper, code, licence, note.",
)
@click.option("--board", type=click.Path(path_type=Path), help="Default: SNNBENCH_HOME/board.")
@click.option(
    "--provisional",
    is_flag=True,
    help="Accept runs from a checkout with uncommitted changes, and gaps in the seeds; the row gets no rank.",
)
@json_option
def add(
    runs: tuple[Path, ...],
    name: str | None,
    authors: tuple[str, ...],
    note_text: str | None,
    entry: Path | None,
    board: Path | None,
    provisional: bool,
    as_json: bool,
) -> None:
    """Make run folders, one per seed, a row of a leaderboard.

    The runs must be of one task, model, training and data set, with seeds 0 to n-1, and on the board
    under no other name. Nothing is added unless it verifies. What `snnbench eval RUN... --corrupt` has
    written goes with them; add the same runs again to give it to a row that is there already.

    \b
    Example: snnbench board add ~/runs/hd-rec-lif-seed* --name rec-lif --authors "A. Turing"
    """
    from snnbench.leaderboards.add import add_entry, read_cover
    from snnbench.leaderboards.entries import local_root, shipped_tasks

    cover: dict[str, Any] = read_cover(entry) if entry else {}
    options = {"name": name, "authors": list(authors), "note": note_text}
    cover |= {key: value for key, value in options.items() if value}
    added = add_entry(
        runs, board or local_root(), shipped_tasks(), cover=cover, provisional=provisional
    )
    data = {
        "entry": added.verified.label,
        "folder": str(added.verified.folder),
        "seeds": [record.spec.seed for record in added.verified.records],
        "robustness": sorted(added.verified.audits),
        "was_there": added.was_there,
        "completed": list(added.completed),
    }
    for path in added.unfinished:
        note(
            f"{path}: is begun, not finished, so the row goes without it; finish it with"
            f" `snnbench eval {path.parent} --corrupt`, then add the same runs again"
        )
    state = "was there already, identical" if added.was_there else "added and verified"
    if n := len(added.completed):
        state = f"was there already, completed with the robustness of {n} {'seed' if n == 1 else 'seeds'}"
    answer(as_json, data, f"{data['entry']}: {state}; {data['folder']}")


@board_command.command()
@board_option
@json_option
@click.pass_context
def verify(ctx: click.Context, board: Path | None, as_json: bool) -> None:
    """Check every entry: no edited byte, accuracies recounted from stored predictions, whatever else
    follows from something else does, and no run stands twice.

    Exits with 1 and lists every problem if anything does not hold.

    \b
    Example: snnbench board verify --board leaderboards/entries
    """
    from snnbench.leaderboards.entries import board_roots, shipped_tasks
    from snnbench.leaderboards.table import verify_roots

    found = verify_roots(board_roots(board), shipped_tasks())
    failed = [verified for _, verified in found if not verified.ok]
    lines = [_verdict(origin, verified) for origin, verified in found]
    lines.append(f"{len(found) - len(failed)} of {len(found)} entries verify")
    data = {
        "ok": not failed,
        "entries": [
            {
                "entry": verified.label,
                "origin": origin,
                "folder": str(verified.folder),
                "ok": verified.ok,
                "seeds": [record.spec.seed for record in verified.records],
                "pins": verified.pins,
                "fingerprint": _fingerprint(verified),
                "reproduced": [rerun.seed for rerun in verified.reruns],
                "problems": [problem._asdict() for problem in verified.problems],
            }
            for origin, verified in found
        ],
    }
    answer(as_json, data, "\n".join(lines))
    if failed:
        ctx.exit(1)


@board_command.command()
@board_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write. Default: SNNBENCH_HOME/page."
)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a file is missing or stale.")
@click.option("--open", "show_page", is_flag=True, help="Open the page in your browser.")
@json_option
@click.pass_context
def build(
    ctx: click.Context,
    board: Path | None,
    out: Path | None,
    check: bool,
    show_page: bool,
    as_json: bool,
) -> None:
    """Write each task as Markdown and CSV, and all as one HTML page that needs no network.

    \b
    Example: snnbench board build --out page --open
    """
    from snnbench.errors import SnnbenchError
    from snnbench.leaderboards.literature import all_literature
    from snnbench.leaderboards.render import render_board
    from snnbench.paths import home_dir, write_text

    out = out or home_dir() / "page"
    tables, failed = _tables(board)
    if failed:
        raise SnnbenchError(
            "\n".join(["a board with entries that do not verify is not built:", *failed])
        )
    files = render_board(tables, all_literature())
    if check:
        stale = [name for name, text in files.items() if not _is_fresh(out / name, text)]
        lines = [f"{out / name}: stale; run `snnbench board build`" for name in stale]
        answer(as_json, {"stale": stale}, "\n".join(lines) or f"{out}: fresh")
        if stale:
            ctx.exit(1)
        return
    for name, text in files.items():
        write_text(out / name, text)
    answer(
        as_json,
        {"folder": str(out), "files": list(files)},
        "\n".join(str(out / name) for name in files),
    )
    if show_page:
        import webbrowser

        page = (out / "index.html").resolve()
        if not webbrowser.open(page.as_uri()):
            note(f"no browser was found; open {page}")


@board_command.command()
@click.argument("task", required=False)
@board_option
@click.option(
    "--literature",
    is_flag=True,
    help="Below, list results that others published, with how each is known; never ranked.",
)
@click.option(
    "--energy",
    # as in snnbench.leaderboards.energy, which is slow to import
    type=click.Choice(["horowitz-45nm-float32", "horowitz-45nm-int32"]),
    help="Below, energy of a sample's synaptic operations by this published model; never ranked.",
)
@json_option
def show(
    task: str | None, board: Path | None, literature: bool, energy: str | None, as_json: bool
) -> None:
    """Show the leaderboard of TASK, or of all tasks.

    \b
    Example: snnbench board show digits-synthetic
    """
    from snnbench.errors import unknown_name
    from snnbench.leaderboards.literature import all_literature, as_data
    from snnbench.spec import task_names

    tables, failed = _tables(board)
    for line in failed:
        note(f"left out, does not verify: {line}")
    published = all_literature() if literature else {}
    if task is not None:
        known = {*task_names(), *(table.task.name for table in tables)}
        if task not in known:
            raise unknown_name("task", task, known)
        tables = [table for table in tables if table.task.name == task]
        published = {name: rows for name, rows in published.items() if name == task}
        if literature and not published:
            note(f"no published results are known of {task}")
    data: Any = [table.as_data() for table in tables]
    if literature or energy:
        data = {"tables": data}
    if literature:
        data["literature"] = {n: [as_data(row) for row in rows] for n, rows in published.items()}
    if energy:
        from snnbench.leaderboards.energy import ENERGY_MODELS, energies

        data["energy"] = [row for t in tables for row in energies(t, ENERGY_MODELS[energy])]
    answer(as_json, data, _shown(tables, published, energy))


def _shown(
    tables: list[Table], published: dict[str, tuple[LiteratureRow, ...]], energy: str | None
) -> Any:
    """Leaderboards, and below them what is never ranked, as something rich can draw."""
    from rich.console import Group

    from snnbench.leaderboards.terminal import TerminalEnergy, TerminalLiterature

    empty = "no entries yet; train with `snnbench bench`, then `snnbench board add RUN...`"
    parts: list[Any] = [terminal_tables(tables) if tables else empty]
    if energy and tables:
        parts.append(TerminalEnergy(tuple(tables), energy))
    if published:
        parts.append(TerminalLiterature(published))
    return Group(*parts)


def terminal_tables(tables: list[Table]) -> Any:
    """Leaderboards as something rich can draw."""
    from snnbench.leaderboards.terminal import TerminalTables

    return TerminalTables(tuple(tables))


def _tables(board: Path | None) -> tuple[list[Table], list[str]]:
    """Tables of the entries that verify, and a line for each problem of the others."""
    from snnbench.leaderboards.entries import board_roots, shipped_tasks
    from snnbench.leaderboards.table import make_tables, verify_roots

    found = verify_roots(board_roots(board), shipped_tasks())
    failed = [f"{v.folder}: {problem}" for _, v in found for problem in v.problems]
    return make_tables(found), failed


def _verdict(origin: str, verified: Verified) -> str:
    if not verified.ok:
        problems = [f"  {verified.folder}/{problem}" for problem in verified.problems]
        return "\n".join([f"FAILED  {verified.label} ({origin})", *problems])
    states: dict[str, list[str]] = {}
    for name, state in verified.pins.items():
        states.setdefault(state, []).append(name)
    pins = "; ".join(f"{state}: {', '.join(names)}" for state, names in states.items())
    again = ", ".join(str(rerun.seed) for rerun in verified.reruns)
    reproduced = f" (reproduced: {again})" if again else ""
    return (
        f"ok      {verified.label} ({origin}): {len(verified.records)} seeds{reproduced};"
        f" {pins}; fingerprint {_fingerprint(verified)[:12]}"
    )


def _fingerprint(verified: Verified) -> str:
    return verified.records[0].data.fingerprint if verified.records else ""


def _is_fresh(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()
