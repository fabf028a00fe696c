"""Where leaderboard entries live and what lies in one.

    <root>/<task>/<entry>/entry.toml               cover sheet (snnbench.record.Entry)
                          runs/seed-N.json         one RunRecord per seed
                          predictions/seed-N.npz   its proof; none for a diverged run
                          robustness/seed-N.json   the run on changed samples, where it was tested on them
                          MANIFEST.sha256          hashes of all of the above
                          reproduced/              reruns by others, with a manifest of their own, see
                                                   snnbench.leaderboards.reproduction

The manifest is what `sha256sum` writes, sorted by path, and nothing else: `sha256sum -c` reads it, and
because there is exactly one right text, an edited byte in any file, itself included, shows.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from snnbench.errors import UsageError
from snnbench.paths import home_dir
from snnbench.record import Entry, sha256_of
from snnbench.spec import TaskSpec, load_task, superseded_tasks, task_names

MANIFEST = "MANIFEST.sha256"
COVER = "entry.toml"
REPRODUCED = "reproduced"
_RUN_FILE = re.compile(
    r"((runs|robustness)/seed-(0|[1-9]\d*)\.json|predictions/seed-(0|[1-9]\d*)\.npz)", re.ASCII
)
_RERUN_FILE = re.compile(
    REPRODUCED + r"/(seed-(0|[1-9]\d*)\.(json|npz)|" + re.escape(MANIFEST) + ")", re.ASCII
)

Tasks = dict[tuple[str, int], TaskSpec]


class Root(NamedTuple):
    """A folder of entries and how it is called in tables."""

    origin: str
    path: Path


def shipped_root() -> Path:
    """Entries inside the installed package."""
    return Path(str(resources.files("snnbench.leaderboards").joinpath("entries")))


def local_root() -> Path:
    """The user's own board; not created here."""
    return home_dir() / "board"


def board_roots(board: Path | None) -> list[Root]:
    """The given folder alone, or the shipped entries and the user's own.

    Raises
    ------
    UsageError
        If `board` is given and is no folder.
    """
    if board is None:
        return [Root("shipped", shipped_root()), Root("local", local_root())]
    if not board.is_dir():
        raise UsageError(f"{board}: no such board folder; `snnbench board add` makes one")
    return [Root("board", board)]


def shipped_tasks() -> Tasks:
    """All tasks that ship, by name and version, also those that a newer version has taken the place of."""
    tasks = [load_task(name) for name in task_names()] + superseded_tasks()
    return {(task.name, task.version): task for task in tasks}


def entry_folders(root: Path) -> list[Path]:
    """Entry folders below `root`, sorted; folders that begin with a dot are being written."""
    return [entry for task in _visible_folders(root) for entry in _visible_folders(task)]


def entry_files(folder: Path) -> list[str]:
    """Everything in an entry that is not a folder, as sorted relative paths with forward slashes."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


def belongs(file: str) -> bool:
    """Whether an entry may hold a file of this relative path."""
    return file in (COVER, MANIFEST) or any(
        pattern.fullmatch(file) for pattern in (_RUN_FILE, _RERUN_FILE)
    )


def comes_later(file: str) -> bool:
    """Whether an entry may get this file when it is on the board already: it changes none of the others."""
    return file.startswith("robustness/")


def manifest_of(folder: Path) -> dict[str, str]:
    """Relative path to sha256 of every file that a manifest lists, sorted by path.

    Not of the manifest itself, nor of reruns, which come later and have one of their own.
    """
    return {
        file: sha256_of((folder / file).read_bytes())
        for file in entry_files(folder)
        if file != MANIFEST and not file.startswith(f"{REPRODUCED}/")
    }


def manifest_text(hashes: dict[str, str]) -> str:
    """The one right content of MANIFEST.sha256."""
    return "".join(f"{digest}  {file}\n" for file, digest in hashes.items())


def entry_toml(entry: Entry) -> str:
    """The one way we write an entry.toml."""
    return "".join(f"{key} = {_toml_value(value)}\n" for key, value in entry.model_dump().items())


def _toml_value(value: str | bool | list[str]) -> str:
    # JSON strings, lists and booleans are TOML too, but for DEL, which TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _visible_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
