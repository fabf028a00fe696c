"""Try the wheel in dist/ as a user gets it: outside the checkout, with only what is in the wheel.

    python -m build && python tests/try_wheel.py

`python -m build` makes the wheel from the sdist, so this tries the sdist's content too. The packages
snnbench depends on are not installed again: the trial environment sees those of the environment that
runs this script, without its editable snnbench.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    # folder in the checkout: files in it that must be in the wheel, and where
    "data_prep": ("snnbench/data_prep", ("*.py", "recipes/*.toml", "cards/*.md")),
    "models": ("snnbench/models", ("*.py", "zoo/*.toml", "cards/*.md")),
    "leaderboards": ("snnbench/leaderboards", ("*.py", "*.j2", "tasks/*.toml", "entries/**/*")),
    "snnbench": ("snnbench", ("*.py", "py.typed", "cli/*.py")),
}
COMMANDS = (
    ("--help",),
    ("models", "list"),
    ("models", "show", "rec-lif"),
    ("data", "list"),
    ("board", "verify"),
    ("board", "show"),
    ("env",),
)


def main() -> None:
    """Check the archives' content, install the wheel and run commands; exit 1 at the first problem."""
    wheel, sdist = newest("*.whl"), newest("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    check_names(wheel, names)
    with tarfile.open(sdist) as archive_of_sources:
        check_sources(sdist, archive_of_sources.getnames())
    with tempfile.TemporaryDirectory(prefix="try-wheel-") as folder:
        python = make_environment(Path(folder) / "venv", wheel)
        run_commands(python, Path(folder) / "elsewhere")
    say(f"{wheel.name} works outside the checkout, {len(names)} files")


def newest(pattern: str) -> Path:
    """The only archive of a kind in dist/."""
    found = sorted((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        fail(f"dist/ holds {len(found)} files {pattern}; `make dist` makes exactly one")
    return found[0]


def check_names(wheel: Path, names: list[str]) -> None:
    """Nothing but the package at top level, every file of the checkout, no link left over."""
    top = {name.split("/")[0] for name in names}
    if others := {t for t in top if t != "snnbench" and not t.endswith(".dist-info")}:
        fail(f"{wheel.name}: {sorted(others)} at top level")
    if absent := sorted(wanted_files() - set(names)):
        fail(f"{wheel.name}: lacks {len(absent)} files, first {absent[:5]}")
    unknown = {n for n in names if n.startswith("snnbench/")} - wanted_files()
    if unknown:
        fail(f"{wheel.name}: holds files that are not in the checkout: {sorted(unknown)[:5]}")
    for kind in ("recipes/", "zoo/", "cards/", "tasks/", "entries/", ".j2"):
        if not any(kind in name for name in names):
            fail(f"{wheel.name}: holds nothing like {kind}")
    say(f"{wheel.name}: content is the checkout's")


def wanted_files() -> set[str]:
    """Names in the wheel of all files that the checkout has for it."""
    return {
        f"{target}/{path.relative_to(ROOT / folder)}"
        for folder, (target, patterns) in FOLDERS.items()
        for pattern in patterns
        for path in (ROOT / folder).glob(pattern)
        if path.is_file()
    }


def check_sources(sdist: Path, names: list[str]) -> None:
    """The sdist holds what `pip install` needs and the licence."""
    inner = {name.partition("/")[2] for name in names}
    wanted = {"pyproject.toml", "LICENSE", "README.md", "snnbench/spec.py", "data_prep/store.py"}
    if absent := wanted - inner:
        fail(f"{sdist.name}: lacks {sorted(absent)}")


def make_environment(folder: Path, wheel: Path) -> Path:
    """An environment with the wheel and nothing else of snnbench; returns its Python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = next(folder.glob("lib/python*/site-packages"))
    installed = sysconfig.get_path("purelib")
    # a plain path: .pth files in that folder are not read, so the editable snnbench is not there
    (site / "dependencies.pth").write_text(f"{installed}\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run(
        [*install, "--no-deps", "--no-index", "--ignore-installed", "--prefix", folder, wheel],
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    return python


def run_commands(python: Path, folder: Path) -> None:
    """Run commands in an empty folder; none may fail, and all code must come from the wheel."""
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"SNNBENCH_HOME": str(folder / "home"), "SNNBENCH_DATA": str(folder / "data")}

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    code = (
        "import json, snnbench, snnbench.cli, snnbench.data_prep.store, snnbench.models.network,"
        " snnbench.leaderboards.verify, sys;"
        "print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.startswith('snnbench')]))"
    )
    files = [Path(name) for name in json.loads(run(str(python), "-c", code))]
    if outside := [f for f in files if not f.is_relative_to(python.parents[1])]:
        fail(f"imported from elsewhere: {outside}")
    say(f"{len(files)} modules, all from the wheel")
    for command in COMMANDS:
        if not run(str(python.parent / "snnbench"), *command).strip():
            fail(f"snnbench {' '.join(command)}: says nothing")
        say(f"snnbench {' '.join(command)}: ok")
    verified = json.loads(run(str(python.parent / "snnbench"), "board", "verify", "--json"))
    say(f"board verify: {len(verified['entries'])} shipped entries")


def say(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(f"try_wheel: {text}\n")


def fail(text: str) -> None:
    """Tell the problem and leave."""
    sys.exit(f"try_wheel: {text}")


if __name__ == "__main__":
    main()
