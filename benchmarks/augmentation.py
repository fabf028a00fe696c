"""Speed of augmentation: milliseconds for a batch of 256 SHD-sized samples, one thread.

    python benchmarks/augmentation.py [--samples 256] [--spikes 8000] [--repeats 5]

Every transform of `data_prep/augment.py` by itself on random spikes, and the pair that Cramer et al.
(2020) train with.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from snnbench.data_prep.augment import Events, augment
from snnbench.spec import AugmentSpec

N_UNITS, N_CLASSES, DURATION_S = 700, 20, 1.4
TRANSFORMS = {
    "blend, half of the samples": AugmentSpec(blend_p=0.5),
    "time scale up to 1.2": AugmentSpec(time_scale=1.2),
    "channel shift up to 20": AugmentSpec(channel_shift=20),
    "channel jitter, sd 1": AugmentSpec(channel_jitter=1.0),
    "time jitter, sd 1 ms": AugmentSpec(time_jitter_s=1e-3),
    "fade of up to 50 %": AugmentSpec(fade_p=0.5),
    "mask of up to 100 units": AugmentSpec(mask_units=100),
    "mask of up to 200 ms": AugmentSpec(mask_s=0.2),
    "deletion of 10 %": AugmentSpec(deletion_p=0.1),
    "noise, 1.6 Hz a unit": AugmentSpec(noise_hz=1.6),
    "channel jitter and noise": AugmentSpec(channel_jitter=1.0, noise_hz=1.6),
}


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--spikes", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    n = options.samples * options.spikes
    events = Events.of(
        torch.rand(n, generator=generator) * DURATION_S,
        torch.randint(N_UNITS, (n,), generator=generator),
        torch.full((options.samples,), options.spikes),
    )
    labels = torch.randint(N_CLASSES, (options.samples,), generator=generator)
    for name, spec in TRANSFORMS.items():
        times_ms = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            augment(
                events, labels, spec, n_units=N_UNITS, duration_s=DURATION_S, generator=generator
            )
            times_ms.append((time.perf_counter() - start) * 1e3)
        print(f"{name:28}{statistics.median(times_ms):8.0f} ms")


if __name__ == "__main__":
    main()
