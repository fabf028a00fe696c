"""The errors a user may see. Everything else that escapes is a bug of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SnnbenchError(Exception):
    """Bad input or a failed operation: names the thing, what was found, what to do. Exit code 1."""

    exit_code = 1


class UsageError(SnnbenchError):
    """The command or a name in it is wrong. Exit code 2."""

    exit_code = 2


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """A UsageError for an unknown `name`, suggesting the nearest known ones.

    >>> str(unknown_name("task", "hdd", ["hd", "shd"]))
    "unknown task 'hdd'; did you mean hd, shd?"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known) or 'none'}"
    return UsageError(f"unknown {kind} {name!r}; {hint}")
