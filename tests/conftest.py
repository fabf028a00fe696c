"""Shared fixtures."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.dask_cluster import DaskProcesses

# a busy machine is no reason to fail: no example has a time limit
hypothesis.settings.register_profile("snnbench", deadline=None)
hypothesis.settings.load_profile("snnbench")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recordings and reference outputs beside the checkout; skips where absent."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the development data folder {folder}, which is not here")
    return folder


@pytest.fixture(autouse=True)
def _private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test writes its runs and data sets into its own temporary folders."""
    monkeypatch.setenv("SNNBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SNNBENCH_DATA", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the cochlea's tables, which take seconds to make, for the whole session."""
    folder = tmp_path_factory.mktemp("data") / "cochlea-tables"
    folder.mkdir()
    return folder


@pytest.fixture
def cochlea_tables(tables: Path, tmp_path: Path, _private_folders: None) -> None:
    """Let this test, and the processes it starts, find the session's tables."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / tables.name).symlink_to(tables)


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskProcesses]:
    """A Dask scheduler and two workers with a data folder of their own."""
    with DaskProcesses(tmp_path_factory.mktemp("dask")) as processes:
        processes.start_worker()
        processes.start_worker()
        yield processes


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_reaches_the_tests() -> None:
    """A shell starts background jobs with Ctrl-C ignored, and children would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
