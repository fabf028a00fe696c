"""A row of the table, and the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Finding(NamedTuple):
    """A row of the table; of several numbers, one stands for each layer."""

    network: str
    quantity: str
    ours: Sequence[float]
    neurobench: Sequence[float]
    why: str = ""
    """Of a difference; nothing where both have to be equal."""
    predicted: Sequence[float] | None = None
    """NeuroBench's numbers by that reason."""
    recounted: Sequence[float] | None = None
    """Our numbers from the spikes themselves, where no equal number of NeuroBench's vouches for them."""
    tolerance: float = 1e-12
    """Absolute; larger where NeuroBench rounds."""

    @property
    def holds(self) -> bool:
        """Whether the numbers are equal, or differ exactly as the reason says."""
        if self.predicted is None:
            return self._equal(self.neurobench, self.ours)
        return (
            self._equal(self.neurobench, self.predicted)
            and not self._equal(self.neurobench, self.ours)
            and (self.recounted is None or self._equal(self.ours, self.recounted))
        )

    def _equal(self, some: Sequence[float], others: Sequence[float]) -> bool:
        return len(some) == len(others) and all(
            math.isclose(a, b, rel_tol=1e-9, abs_tol=self.tolerance)
            for a, b in zip(some, others, strict=True)
        )


def table(findings: Sequence[Finding]) -> str:
    """Markdown."""
    lines = ["| network | quantity | ours | NeuroBench | why not equal |", "|---|---|---|---|---|"]
    for f in findings:
        ours, theirs = (" / ".join(f"{n:,.10g}" for n in ns) for ns in (f.ours, f.neurobench))
        why = (
            f.why
            if f.holds
            else f"**NOT EXPLAINED** (predicted: {f.predicted}; recounted: {f.recounted}) {f.why}"
        )
        lines.append(f"| {f.network} | {f.quantity} | {ours} | {theirs} | {why} |")
    return "\n".join(lines) + "\n"
