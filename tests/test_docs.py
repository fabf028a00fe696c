"""The README is true to the letter: its commands run, its files exist.

Commands are the lines that begin with "$ " in its console blocks. Those under a `<!-- long -->` comment
take minutes and real recordings, and run with `-m slow`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
_BLOCK = re.compile(r"(<!-- long -->\n+)?```console\n(.*?)```", re.DOTALL)


def commands(*, long: bool) -> list[str]:
    """Commands of the README, in order."""
    blocks = [text for mark, text in _BLOCK.findall(README) if bool(mark) == long]
    return [line[2:] for text in blocks for line in text.splitlines() if line.startswith("$ ")]


def run(script: list[str], folder: Path) -> None:
    """Run lines in one shell, as a visitor would, with our interpreter's snnbench first on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-x", "-c", "\n".join(script)],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_there_are_commands_of_both_kinds():
    assert commands(long=False)
    assert commands(long=True)


def test_quick_commands_run(tmp_path: Path):
    run(commands(long=False), tmp_path)


@pytest.mark.slow
def test_long_commands_run_on_real_recordings(tmp_path: Path, shared_data: Path):
    """Verbatim, on the first trials of every speaker instead of all recordings."""
    source = shared_data / "heidelberg-digits-24k" / "audio"
    audio = tmp_path / "heidelberg-digits" / "audio"
    audio.mkdir(parents=True)
    for path in source.glob("*_trial-[1-2]_*.flac"):
        shutil.copy(path, audio)
    run(commands(long=True), tmp_path)
    assert (tmp_path / "raster.png").stat().st_size > 0
    assert (tmp_path / "results" / "page" / "index.html").is_file()


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=str
)
def test_links_lead_to_files(page: Path):
    text = page.read_text("utf-8")
    targets = re.findall(r"(?:\]\(|src=\")([^)#\"]+)", text)
    local = [t for t in targets if not t.startswith(("http://", "https://"))]
    missing = [t for t in local if not (page.parent / t).exists()]
    assert not missing


def test_leaderboard_extract_is_the_leaderboard():
    """The README shows rows of the generated page, and all of its ranked ones."""
    extract = README.split("<!-- board -->")[1].split("<!-- /board -->")[0]
    shown = [line for line in extract.splitlines() if line.startswith("|")]
    page = (ROOT / "leaderboards" / "digits-synthetic.md").read_text("utf-8").splitlines()
    assert shown == [line for line in page if line.startswith("|")]


def test_architecture_names_every_module():
    """The drawing lists the modules there are, and no others."""
    drawing = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"[\w]+\.py\b", drawing))
    folders = ("snnbench", "data_prep", "models", "leaderboards")
    there = {
        path.name
        for folder in folders
        for path in (ROOT / folder).glob("*.py")
        if not path.name.startswith("__")
    }
    assert there <= named, f"not drawn: {sorted(there - named)}"
    assert named <= there | {"quickstart.py", "download.py", "try_wheel.py"}, (
        f"drawn only: {sorted(named - there)}"
    )
