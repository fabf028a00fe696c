"""Energy of a sample's synaptic operations, by a published model that the reader names; never by default.

An estimate of arithmetic alone: no memory, which costs more, no neuron updates, no idle chip, and not this
machine's. So it is shown where somebody asks for it by name, and is in no record and no ranking.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from snnbench.leaderboards.table import Table
from snnbench.record import RunRecord


class EnergyModel(NamedTuple):
    """Joules of one operation, and who published them."""

    accumulate_j: float
    multiply_accumulate_j: float
    source: str


ENERGY_MODELS = {
    "horowitz-45nm-float32": EnergyModel(
        0.9e-12,  # an addition
        4.6e-12,  # 3.7 pJ of a multiplication and 0.9 of an addition
        "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, figure 1.1.9:"
        " 45 nm, 0.9 V, 32-bit floating point; arithmetic alone",
    ),
    "horowitz-45nm-int32": EnergyModel(
        0.1e-12,
        3.2e-12,  # 3.1 pJ of a multiplication and 0.1 of an addition
        "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014, figure 1.1.9:"
        " 45 nm, 0.9 V, 32-bit integers; arithmetic alone",
    ),
}


def energy_j(record: RunRecord, model: EnergyModel) -> float | None:
    """Joules a test sample: effective accumulates and multiply-accumulates of all layers.

    None where the record does not tell the two apart (those of before operations by layer).
    """
    if record.operations is None or not record.operations.layers:
        return None
    layers = record.operations.layers.values()
    return math.fsum(
        layer.effective_acs * model.accumulate_j
        + layer.effective_macs * model.multiply_accumulate_j
        for layer in layers
    )


def energies(table: Table, model: EnergyModel) -> list[dict[str, Any]]:
    """Of every row of a table, in its order: name, and joules a sample, mean over the seeds that tell."""
    found = []
    for row in table.rows:
        told = [j for record in row.records if (j := energy_j(record, model)) is not None]
        mean = math.fsum(told) / len(told) if told else None
        found.append({"task": table.task.name, "entry": row.entry.name, "energy_j": mean})
    return found
