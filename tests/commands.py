"""The command line as tests call it: in this process, or as a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile

from snnbench.cli import main
from tests.tiny_data import RATE_HZ, digit_name, vowel

ROOT = Path(__file__).resolve().parents[1]


class Answer(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def snnbench(*arguments: object) -> Answer:
    """Call the entry point in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["snnbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            main()
    code = leaving.value.code or 0
    assert isinstance(code, int)
    assert "Traceback" not in err.getvalue()
    return Answer(code, out.getvalue(), err.getvalue())


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the command as a shell does: a process group of its own, which Ctrl-C reaches."""
    return subprocess.Popen(
        [sys.executable, "-m", "snnbench", *map(str, arguments)],
        **{
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "cwd": ROOT,
            "start_new_session": True,
            **options,
        },
    )


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Return as soon as the condition holds; fail where the process ends before."""
    while not condition():
        if process.poll() is not None:
            pytest.fail(f"ended too early: {process.communicate()}")
        time.sleep(0.02)


def strict_json(text: str) -> Any:
    """JSON as other languages read it: NaN is none."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def many_digits(folder: Path, speakers: Iterable[int] = range(18)) -> Path:
    """Ten short recordings of every speaker; of eighteen speakers enough for six shards."""
    folder.mkdir()
    for speaker in speakers:
        for digit in range(10):
            path = folder / f"{digit_name(speaker, digit)}.wav"
            soundfile.write(path, vowel(speaker, digit, seconds=0.05), RATE_HZ, subtype="PCM_16")
    return folder
