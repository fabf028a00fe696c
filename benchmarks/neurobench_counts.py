"""Our counts of work beside NeuroBench's, on the same small networks with the same spikes.

    python -m venv neurobench-env
    neurobench-env/bin/pip install --constraint constraints.txt . snntorch==1.0.0
    neurobench-env/bin/pip install --no-deps neurobench==2.3.0 torchaudio==2.11.0
    neurobench-env/bin/python benchmarks/neurobench_counts.py [--out TABLE.md]

NeuroBench needs an environment of its own and is no dependency of ours. torchaudio is there only because
`neurobench.benchmarks` imports its processors of sound; what else NeuroBench lists (tonic and others) serves
its data sets and is not imported here.

Networks are 20-16-16-5, once feedforward and once with recurrent hidden layers: in ours, `lif-delta` neurons
with a leaky readout; in snnTorch, `Leaky` or `RLeaky` neurons with the same weights (`Twin`). Before anything
is counted, both must give the same spikes in every layer, step and sample.

A row either says that both numbers are equal, or why they are not. In the second case NeuroBench's number has
to be the one that the reason predicts, computed here from the spikes and weights. If a row is not so, the
exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from beside_neurobench.baselines import cnn, lstm
from beside_neurobench.findings import table
from beside_neurobench.spiking import feedforward, large, pruned, recurrent, several_spikes_in_a_bin

from snnbench.paths import write_text


def main() -> int:
    """Compare, print, and say by the exit code whether everything holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the table there, too")
    arguments = parser.parse_args()
    parts = (feedforward, recurrent, several_spikes_in_a_bin, pruned, large, lstm, cnn)
    findings = [finding for part in parts for finding in part()]
    text = table(findings)
    print(text)
    if arguments.out:
        write_text(arguments.out, text)
    equal = sum(f.holds and f.predicted is None for f in findings)
    explained = sum(f.holds and f.predicted is not None for f in findings)
    versions = ", ".join(f"{name} {version(name)}" for name in ("neurobench", "snntorch", "torch"))
    print(f"{len(findings)} rows: {equal} equal, {explained} explained ({versions})")
    return 0 if equal + explained == len(findings) else 1


if __name__ == "__main__":
    sys.exit(main())
