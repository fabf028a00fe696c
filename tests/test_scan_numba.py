"""The scan in numba: against the reference and the C++ kernels, and without a compiler or a cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnbench.models.scan_numba import _module, call
from snnbench.models.scan_numba_rows import most_in_a_tile
from tests.scan_cases import (
    Options,
    Shape,
    assert_agree,
    assert_near,
    assert_same_bits,
    make_case,
    needs_compiler,
    run_case,
    run_scan,
)

SHIPPED = Options("lif")
OPTIONS = (
    SHIPPED,
    Options("adlif", "zero", True, "sigmoid", "all", "float64"),
    Options("lif-refractory", "zero", True, "multi-gaussian", "all", "float64"),
    Options("se-adlif", "zero", True, "slayer", "first", "float32"),
)
# around the sixteen samples that go together, the 32 units that rows are padded to, and the 64 bits of a word
SHAPES = st.builds(
    Shape, st.integers(1, 12), st.sampled_from((1, 8, 9, 35)), st.integers(1, 40),
    st.sampled_from((1, 16, 33, 64, 65, 128, 200)),
)  # fmt: skip

TRAIN = """
import json, torch
from snnbench.models.engines import cpu_kernels, resolve_engine
from snnbench.models.scan_types import recipe_of
from tests.scan_cases import Options, Shape, make_case, run_scan

torch.set_num_threads(1)
case = make_case(Options("lif-delta"), Shape(20, 4, 10, 8), 0, n_outgoing=3)
leaves = list(case.leaves().values())
optimiser = torch.optim.Adam(leaves, lr=0.02)
losses = []
for _ in range(15):
    loss = run_scan(case, "auto").projected.square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
engine = resolve_engine("auto", torch.device("cpu"))
recipe = recipe_of(case.cell, learning=True)
kernels = cpu_kernels(engine, recipe, torch.float32)
hits = {n: kernels.cached(n) for n in ("forward", "backward")}
print(json.dumps({"engine": engine, "losses": losses, "from_cache": hits}))
"""


@pytest.fixture
def threads() -> Iterator[Any]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@given(
    shape=SHAPES,
    seed=st.integers(0, 10**6),
    layout=st.sampled_from(("events", "spikes", "drive")),
    density=st.sampled_from((0.0, 0.05, 0.5)),
    recurrent=st.booleans(),
    n_outgoing=st.sampled_from((0, 5, 33)),
    gated=st.booleans(),
    first_state=st.booleans(),
)
@settings(max_examples=12)
def test_numba_agrees_with_the_reference(options: Options, shape: Shape, seed: int, **choices: Any):
    assert_agree(make_case(options, shape, seed, **choices), "numba", seed)


@needs_compiler
@pytest.mark.parametrize("layout", ["events", "spikes"])
def test_numba_does_what_the_cpp_kernels_do(layout: Any):
    shape = Shape(30, 17, 50, 130)
    case = make_case(SHIPPED, shape, 1, layout=layout, density=0.05, n_outgoing=20, gated=True)
    found, expected = run_case(case, "numba"), run_case(case, "cpp")
    assert torch.equal(found.outputs["spikes"], expected.outputs["spikes"])
    assert 0 < expected.outputs["spikes"].count_nonzero() < expected.outputs["spikes"].numel()
    for ours, theirs in (
        (found.outputs, expected.outputs),
        (found.gradients, expected.gradients),
    ):
        for name, tensor in theirs.items():
            assert_near(name, ours[name], tensor, 1e-5)


@pytest.mark.parametrize("layout", ["events", "spikes"])
def test_the_number_of_threads_changes_no_bit(layout: Any, threads: Any):
    # the gradient by dense spikes is PyTorch's product, which promises less
    case = make_case(
        SHIPPED, Shape(10, 37, 50, 70), 2, layout=layout, n_outgoing=7, gated=True,
        frozen=frozenset({"inputs"}),
    )  # fmt: skip
    threads(1)
    alone = run_case(case, "numba")
    for n in (2, 3, 11):  # and more than there are shares of the samples
        threads(n)
        assert_same_bits(run_case(case, "numba"), alone)


@settings(max_examples=30, deadline=None)
@given(
    in_rows=st.lists(st.integers(0, 9), min_size=2, max_size=40),
    tile=st.integers(1, 12),
    bounds=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_room_for_events_fits_every_tile_of_a_share(
    in_rows: list[int], tile: int, bounds: tuple[int, int]
):
    # tiles begin where a share of the samples does, not at multiples of their size
    first, last = sorted(min(b, len(in_rows)) for b in bounds)
    indptr = np.cumsum([0, *in_rows])
    fullest = max((sum(in_rows[r:last][:tile]) for r in range(first, last, tile)), default=0)
    assert most_in_a_tile(indptr, first, last, tile, 7) == fullest
    assert most_in_a_tile(indptr[:0], first, last, tile, 7) == 7 * min(tile, last - first)


def test_a_sample_has_the_same_bits_in_any_company():
    # groups of eight rows are summed by other instructions than what is left over
    case = make_case(SHIPPED, Shape(15, 13, 20, 40), 3, layout="drive")
    assert isinstance(case.inputs, torch.Tensor)
    together = run_case(case, "numba").outputs["spikes"]
    for b in range(13):
        alone = replace(case, inputs=case.inputs[:, b : b + 1])
        assert torch.equal(run_scan(alone, "numba").spikes[:, 0], together[:, b])


def test_trains_without_a_compiler_and_compiles_only_once(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if k != "CXX"}
    environment |= {"PATH": "", "XDG_CACHE_HOME": str(tmp_path)}

    def train() -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", TRAIN],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    first, second = train(), train()
    assert first["engine"] == "numba"
    assert first["losses"][-1] < 0.5 * first["losses"][0]
    assert first["from_cache"] == {"forward": False, "backward": False}
    assert second["from_cache"] == {"forward": True, "backward": True}
    assert second["losses"] == first["losses"]


def test_a_cache_that_cannot_be_written_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    no_folder = tmp_path / "file"
    no_folder.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_folder))
    # kernels which no other test here has compiled
    options = Options("leaky", learned="all", dtype="float64")
    case = make_case(options, Shape(5, 9, 10, 40), 4, recurrent=False, first_state=True)
    assert_agree(case, "numba", 4)
    assert no_folder.read_text() == "in the way"


@pytest.mark.parametrize("kind", [".nbi", ".nbc"])
@pytest.mark.parametrize("left", [0, 20, -1])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, kind: str, left: int):
    (tmp_path / "kept.py").write_text(
        "from numba import njit\n\n@njit(cache=True)\ndef double(x):\n    return 2 * x\n"
    )
    loader = SourceFileLoader("kept", str(tmp_path / "kept.py"))

    def double() -> Any:
        module = ModuleType("kept")
        module.__file__ = loader.path
        loader.exec_module(module)
        return module.double

    assert call(double(), 3) == 6
    [path] = (tmp_path / "__pycache__").glob(f"*{kind}")
    path.write_bytes(path.read_bytes()[:left])
    assert call(double(), 3) == 6
    again = double()
    assert call(again, 3) == 6
    assert again.stats.cache_hits  # and it is whole again


def test_a_kernels_source_that_was_cut_short_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = "CACHE = True\nvalue = 7\n"
    assert _module(source).value == 7
    [path] = tmp_path.rglob("*.py")
    path.write_text("CACHE = (")
    assert _module(source).value == 7
    assert path.read_text() == source
