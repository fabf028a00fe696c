"""Energy by a published model: by hand, and only where it is asked for."""

import click
import pytest

from snnbench.cli.board import show
from snnbench.leaderboards.add import add_entry
from snnbench.leaderboards.energy import ENERGY_MODELS, energy_j
from snnbench.leaderboards.entries import shipped_tasks
from snnbench.record import LayerWork
from tests.commands import snnbench, strict_json
from tests.factories import make_record, make_run_folders


def test_energy_is_operations_times_joules_summed_over_layers():
    record = make_record()
    assert record.operations is not None
    layers = {
        "hidden1": LayerWork(dense=9e6, effective_acs=2e6, effective_macs=0),
        "readout": LayerWork(dense=9e5, effective_acs=5e5, effective_macs=1e5),
    }
    operations = record.operations.model_copy(update={"layers": layers})
    record = record.model_copy(update={"operations": operations})
    # 2.5e6 accumulates of 0.9 pJ and 1e5 multiply-accumulates of 4.6 pJ: 2.25 and 0.46 µJ
    model = ENERGY_MODELS["horowitz-45nm-float32"]
    assert energy_j(record, model) == pytest.approx(2.71e-6, rel=1e-12)
    assert energy_j(record, ENERGY_MODELS["horowitz-45nm-int32"]) == pytest.approx(
        2.5e6 * 0.1e-12 + 1e5 * 3.2e-12, rel=1e-12
    )


def test_a_record_that_does_not_tell_the_kinds_apart_has_no_energy():
    assert energy_j(make_record(), ENERGY_MODELS["horowitz-45nm-float32"]) is None
    assert energy_j(make_record(status="diverged"), ENERGY_MODELS["horowitz-45nm-int32"]) is None


def test_energy_is_shown_only_where_its_model_is_named(tmp_path):
    board = tmp_path / "board"
    add_entry(make_run_folders(tmp_path / "runs", 2), board, shipped_tasks(), cover={})
    plain = snnbench("board", "show", "hd", "--board", board)
    assert (plain.code, "Energy" in plain.out) == (0, False)
    command = ("board", "show", "hd", "--board", board, "--energy", "horowitz-45nm-int32")
    told = snnbench(*command)
    assert told.code == 0
    for word in ("horowitz-45nm-int32", "µJ per sample", "ISSCC 2014", "never ranked", "–"):
        assert word in told.out
    assert strict_json(snnbench(*command, "--json").out)["energy"] == [
        {"task": "hd", "entry": "ff-lif", "energy_j": None}
    ]


def test_the_command_knows_every_model():
    [option] = [p for p in show.params if p.name == "energy"]
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == list(ENERGY_MODELS)
