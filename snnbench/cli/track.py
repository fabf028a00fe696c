"""`snnbench track`: send to MLflow what it could not take, and show finished runs there anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snnbench.cli.common import answer, json_option, note, tracking_uri_option
from snnbench.errors import SnnbenchError

if TYPE_CHECKING:
    from snnbench.tracking_view import Sent

WORDS = {
    "sent": "sent",
    "there": "there already",
    "busy": "still running, or being sent by another process: left alone",
    "failed": "failed",
}


@click.group("track")
def track_command() -> None:
    """MLflow's view of runs: send what waits, show finished runs anew.

    \b
    Example: snnbench track sync
    """


@track_command.command("sync")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@tracking_uri_option
@json_option
def sync(runs: tuple[Path, ...], tracking_uri: str | None, as_json: bool) -> None:
    """Send what MLflow could not take while runs went on: of RUNS, or of all below SNNBENCH_HOME.

    What waits goes where it was meant for, unless --tracking-uri names another place. The command may
    be stopped and called again; nothing is sent twice.

    \b
    Example: snnbench track sync
    """
    from snnbench.paths import home_dir
    from snnbench.tracking_spool import folders_with_spool
    from snnbench.tracking_view import sync_folder

    for folder in runs:
        if not folder.is_dir():
            raise SnnbenchError(
                f"{folder}: no such folder; name a run folder, or one that holds some"
            )
    roots = runs or (home_dir(),)
    folders = sorted({folder for root in roots for folder in folders_with_spool(root)})
    tell(
        as_json,
        [sync_folder(folder, tracking_uri) for folder in folders],
        "nothing waits to be sent",
    )


@track_command.command("import")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@tracking_uri_option
@json_option
def import_(runs: tuple[Path, ...], tracking_uri: str | None, as_json: bool) -> None:
    """Show the finished runs in the folders RUNS in MLflow, from their records, histories and files.

    A run that MLflow shows with the same record already is left alone.

    \b
    Example: snnbench track import ~/runs/hd-rec-lif-seed0-1a2b3c4d5e --tracking-uri sqlite:///view.db
    """
    from snnbench.tracking import default_uri, in_a_line, without_password
    from snnbench.tracking_view import import_folder, read_finished

    for folder in runs:
        read_finished(folder)  # a folder that is no run is told before the first is sent
    uri = tracking_uri or default_uri()
    done = []
    for folder in runs:
        try:
            done.append(import_folder(folder, uri))
        except SnnbenchError:
            raise
        except Exception as error:  # whatever mlflow and what lies below raise
            raise SnnbenchError(
                f"MLflow at {without_password(uri)}: {in_a_line(error)}; {len(done)} of {len(runs)}"
                " runs are shown, the same command goes on"
            ) from error
    tell(as_json, done, "")


def tell(as_json: bool, done: list[Sent], nothing: str) -> None:
    """Print what became of each folder; SnnbenchError where one failed."""
    facts: list[dict[str, Any]] = [{**s._asdict(), "folder": str(s.folder)} for s in done]
    lines = [
        f"{s.folder}: {WORDS[s.state]}{f', {s.events} events' if s.state == 'sent' else ''}"
        for s in done
        if s.state != "failed"
    ]
    failed = [s.problem for s in done if s.state == "failed"]
    if not done:
        note(nothing)
    if as_json or lines:
        answer(as_json, facts, "\n".join(lines))
    if failed:
        raise SnnbenchError("\n".join(failed))
