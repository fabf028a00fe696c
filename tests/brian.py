"""Brian2 for tests, and what it needs to be imported on Python 3.11.

The last Brian2 for Python 3.11 is 2.9, which names `numpy.ndarray.ptp` in the body of a class, and NumPy 2.4
has no such method (https://github.com/brian-team/brian2/pull/1705). From 2.10 on, for Python 3.12, it asks
first. Nothing that tests do needs the method.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

import pytest

_NAMES_IT = "brian2.units.fundamentalunits"


class _WithoutPtp(SourceFileLoader):
    """Loads a module that takes NumPy's function in place of the method."""

    def get_code(self, fullname: str) -> CodeType:
        # from the source, past compiled files of it
        source = self.get_data(self.path).replace(b"np.ndarray.ptp", b"np.ptp")
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == _NAMES_IT else None
        if spec is not None and spec.origin is not None:
            spec.loader = _WithoutPtp(fullname, spec.origin)
        return spec


def import_brian2() -> Any:
    """Brian2, working in NumPy alone; skips the test where it is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        # at import it puts a message of its own before every traceback
        patch.setattr(sys, "excepthook", sys.excepthook)
        if sys.version_info < (3, 12):
            patch.setattr(sys, "meta_path", [_Finder(), *sys.meta_path])
        brian2 = pytest.importorskip("brian2", reason="needs the package brian2 (extra: test)")
    brian2.prefs.codegen.target = "numpy"
    # otherwise it logs the code that it makes
    brian2.BrianLogger.log_level_warn()
    return brian2
