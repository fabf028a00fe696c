"""Is the fast mode lauscher, but for chance? Many seeds of both modes on the same recordings.

    python benchmarks/cochlea_statistics.py FILE.wav ... [--seeds 30] [--preset lauscher]

The exact mode stands for lauscher, whose spikes it repeats (tests/test_cochlea.py). How alike two sets of
seeds can be is limited by chance, so every figure of fast against exact stands beside the same figure of
exact against itself, half of the seeds against the other half.
"""

from __future__ import annotations

import argparse

from snnbench.data_prep.audio import load_audio
from snnbench.data_prep.cochlea import PRESETS, draw_spikes, stages
from snnbench.data_prep.cochlea_statistics import compare


def main() -> None:
    """Parse arguments, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="lauscher")
    arguments = parser.parse_args()
    p = PRESETS[arguments.preset]
    for file in arguments.files:
        sound, rate_hz = load_audio(file, sample_rate_hz=None)
        drawn = {}
        for mode in ("exact", "fast"):
            probability = stages(sound, rate_hz, parameters=p, mode=mode).probability
            drawn[mode] = [
                draw_spikes(probability, rate_hz // 2, parameters=p, seed=seed, key=None, mode=mode)
                for seed in range(arguments.seeds)
            ]
        c = compare(drawn["exact"], drawn["fast"], p.n_channels, len(sound) / rate_hz)
        print(f"{file}, {arguments.seeds} seeds of each mode")
        print(f"  spikes: exact {c.total_exact:.1f}, fast {c.total_fast:.1f}, z {c.total_z:+.2f}")
        print(
            f"  mean counts per channel, correlation: all seeds {c.counts:.4f}; halves across"
            f" modes {c.counts_across:.4f}, within exact (ceiling) {c.counts_ceiling:.4f}"
        )
        print(f"  5 ms PSTH, correlation: {c.psth:.5f}, within exact {c.psth_ceiling:.5f}")
        print(f"  z-scores per channel: mean {c.z_mean:+.3f}, standard deviation {c.z_sd:.3f}")


if __name__ == "__main__":
    main()
