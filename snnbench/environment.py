"""Where a record comes from: versions, commit, device."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

from snnbench import __version__
from snnbench.record import Environment

PACKAGES = ("torch", "numpy", "scipy", "numba", "h5py", "soxr", "espeakng-loader")


def describe(
    device: str, *, threads: int, deterministic: bool, engine: str | None = None
) -> Environment:
    """The environment of this process, for a record."""
    commit, dirty = git_state(Path(__file__).resolve().parent)
    return Environment(
        snnbench=__version__,
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        packages=package_versions(),
        platform=platform.platform(),
        processor=processor_name(),
        device=device,
        threads=threads,
        deterministic=deterministic,
        engine=engine,
    )


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that can change a result."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def processor_name() -> str:
    """Model name of the first processor, or the architecture where it is not told."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit and whether tracked files differ from it; (None, None) outside a git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    # an installed copy inside somebody else's repository is not a checkout of ours
    if commit is None or git("ls-files", "--error-unmatch", str(Path(__file__).resolve())) is None:
        return None, None
    return commit, bool(git("status", "--porcelain", "--untracked-files=no"))
