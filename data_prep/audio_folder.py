"""A folder of one's own recordings: a subfolder per class, or a table `labels.csv`.

labels.csv has a header and a row per recording:

    path    of the sound file, below the folder and relative to it
    label   name of its class
    group   optional: who speaks; whole groups are held out
    split   optional: train, valid or test

Without the table the name of the subfolder is the class, and nothing is known of groups; files whose names
begin with a dot are no recordings. Classes are the recipe's, or else the sorted names found.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from snnbench.data_prep.recipe import Recipe
from snnbench.data_prep.sources import NO_GROUPS, Listing, Recording, subfolders
from snnbench.errors import SnnbenchError

TABLE = "labels.csv"
_REQUIRED, _OPTIONAL = ("path", "label"), ("group", "split")
_SPLITS = ("train", "valid", "test")
_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff"}
_UNREADABLE = {".m4a", ".aac", ".wma", ".amr"}
"""Sound that would be left out silently, because libsndfile cannot read it."""


def labelled_audio(folder: Path, recipe: Recipe) -> Listing:
    """Recordings of `folder` by its table, or by its subfolders; source ids are relative paths.

    Raises
    ------
    SnnbenchError
        Naming the file, and the line of the table: an unknown column, a file that is not there, an
        path out of the folder, an empty label, a class without recordings or one that the recipe
        does not have, fewer than two classes, a name that is not UTF-8.
    """
    table = folder / TABLE
    labelled = list(_from_table(folder) if table.is_file() else _from_subfolders(folder))
    for recording, label in labelled:
        _check_names(recording, label, recipe.classes)
    classes = recipe.classes or tuple(sorted({label for _, label in labelled}))
    if len(classes) < 2:
        raise SnnbenchError(
            f"{folder}: number of classes is {len(classes)}, at least two are needed; make a subfolder"
            f" per class, or a table {TABLE} with the columns path and label"
        )
    place = {name: i for i, name in enumerate(classes)}
    return Listing([r._replace(label=place[label]) for r, label in labelled], classes)


def _check_names(recording: Recording, label: str, classes: tuple[str, ...]) -> None:
    try:
        f"{recording.source_id}{label}".encode()
    except UnicodeEncodeError:
        raise SnnbenchError(
            f"{recording.path}: the name is not UTF-8 and cannot be stored; rename it"
        ) from None
    if classes and label not in classes:
        raise SnnbenchError(
            f"{recording.path}: its class {label!r} is none of the recipe's: {', '.join(classes)}"
        )


def _from_subfolders(folder: Path) -> Iterator[tuple[Recording, str]]:
    for class_folder in subfolders(folder):
        # a link to nothing stays, so that it is an error and not a recording less
        files = sorted(
            p for p in class_folder.rglob("*") if not p.is_dir() and not p.name.startswith(".")
        )
        for path in files:
            if path.suffix.lower() in _UNREADABLE:
                raise SnnbenchError(f"{path}: cannot be read; convert it to WAV or FLAC")
        sounds = [p for p in files if p.suffix.lower() in _SUFFIXES]
        if not sounds:
            raise SnnbenchError(f"{class_folder}: a class without recordings; remove the folder")
        for path in sounds:
            yield (
                Recording(path, path.relative_to(folder).as_posix(), 0, NO_GROUPS),
                class_folder.name,
            )
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."):
            raise SnnbenchError(
                f"{path}: lies in no class's subfolder; move it, or write a table {TABLE}"
            )


def _from_table(folder: Path) -> Iterator[tuple[Recording, str]]:
    table = folder / TABLE
    columns: set[str] | None = None
    seen: dict[str, int] = {}
    for line, row in _rows(table):
        here = f"{table}, line {line}"
        filled = {name for name in _OPTIONAL if row.get(name)}
        if columns is None:
            columns = filled
        elif missing := columns ^ filled:
            raise SnnbenchError(
                f"{here}: {sorted(missing)[0]} is filled in some rows and not in others; fill it in"
                " all or in none"
            )
        if not row["label"]:
            raise SnnbenchError(f"{here}: the label of {row['path']!r} is empty")
        if not row["path"]:
            raise SnnbenchError(f"{here}: the path is empty")
        if Path(row["path"]).is_absolute() or ".." in Path(row["path"]).parts:
            raise SnnbenchError(
                f"{here}: {row['path']!r} leads out of {folder}; name a file below it, relative to it"
            )
        path = folder / row["path"]
        if not path.is_file():
            raise SnnbenchError(f"{here}: {path}: no such sound file")
        source_id = Path(row["path"]).as_posix()
        if (first := seen.setdefault(source_id, line)) != line:
            raise SnnbenchError(f"{here}: {source_id} is in line {first} already")
        split = row.get("split", "")
        if split and split not in _SPLITS:
            raise SnnbenchError(f"{here}: split {split!r} is none of {', '.join(_SPLITS)}")
        group = row.get("group") or NO_GROUPS
        yield Recording(path, source_id, 0, group, split), row["label"]


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells, blanks around them dropped, of every row."""
    try:
        # utf-8-sig: spreadsheets put a mark at the beginning
        with open(table, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = [name.strip() for name in reader.fieldnames or ()]
            _check_columns(table, names)
            reader.fieldnames = names
            for row in reader:
                if None in row or None in row.values():
                    raise SnnbenchError(
                        f"{table}, line {reader.line_num}: not {len(names)} cells, as the header has"
                    )
                yield reader.line_num, {name: cell.strip() for name, cell in row.items()}
    except UnicodeDecodeError:
        raise SnnbenchError(f"{table}: is not UTF-8; save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise SnnbenchError(f"{table}: cannot be read as a table: {error}") from None


def _check_columns(table: Path, names: list[str]) -> None:
    if len(names) == 1 and any(other in names[0] for other in ";\t"):
        raise SnnbenchError(
            f"{table}, line 1: cells are not separated by commas; save it with commas"
        )
    for name in _REQUIRED:
        if name not in names:
            raise SnnbenchError(
                f"{table}, line 1: no column {name!r} among {', '.join(names) or 'none'};"
                f" needed are {', '.join(_REQUIRED)}, {' and '.join(_OPTIONAL)} are optional"
            )
    for i, name in enumerate(names):
        if name not in _REQUIRED + _OPTIONAL:
            raise SnnbenchError(
                f"{table}, line 1: unknown column {name!r}; known are"
                f" {', '.join(_REQUIRED + _OPTIONAL)}"
            )
        if name in names[:i]:
            raise SnnbenchError(f"{table}, line 1: column {name!r} is there twice")
