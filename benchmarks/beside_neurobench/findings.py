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
    tolerance: float = 1e-12
    """Absolute; larger where NeuroBench rounds."""

    @property
    def holds(self) -> bool:
        """Whether the numbers are equal, or differ exactly as the reason says."""
        if self.predicted is None:
            return self._equal(self.ours)
        return self._equal(self.predicted) and not self._equal(self.ours)

    def _equal(self, numbers: Sequence[float]) -> bool:
        return len(numbers) == len(self.neurobench) and all(
            math.isclose(a, b, rel_tol=1e-9, abs_tol=self.tolerance)
            for a, b in zip(self.neurobench, numbers, strict=True)
        )


def table(findings: Sequence[Finding]) -> str:
    """Markdown."""
    lines = ["| network | quantity | ours | NeuroBench | why not equal |", "|---|---|---|---|---|"]
    for f in findings:
        ours, theirs = (" / ".join(f"{n:,.7g}" for n in ns) for ns in (f.ours, f.neurobench))
        why = f.why if f.holds else f"**NOT EXPLAINED** (predicted: {f.predicted}) {f.why}"
        lines.append(f"| {f.network} | {f.quantity} | {ours} | {theirs} | {why} |")
    return "\n".join(lines) + "\n"
