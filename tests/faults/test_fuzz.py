"""Every reader of others' files, fed with damaged and hostile ones: see tests/faults/fuzz.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.fuzz import READERS, ROOT


def fuzzed(folder: Path, examples: int, *readers: str, timeout_s: float) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz", str(folder), str(examples), *readers],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout_s,
    )
    assert done.returncode == 0, f"the process died: {done.stderr[-2000:]}"
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["reader"] for one in told] == list(readers or READERS)
    assert [fault for one in told for fault in one["faults"]] == []
    for one in told:
        assert one["taken"] + one["refused"] >= examples / 2, one


def test_readers_take_or_refuse(tmp_path: Path):
    fuzzed(tmp_path, 30, timeout_s=120)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_readers_take_or_refuse_2000_files(tmp_path: Path, reader: str):
    fuzzed(tmp_path, 2000, reader, timeout_s=600)
