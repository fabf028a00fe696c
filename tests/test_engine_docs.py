"""The example of docs/engine.md runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "engine.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS)
def test_example_runs(code: str):
    exec(compile(code, str(PAGE), "exec"), {"__name__": "example"})


def test_there_is_an_example():
    assert BLOCKS
