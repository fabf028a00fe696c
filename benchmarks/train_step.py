"""Time of a training step of rec-lif on random spikes with the density of spoken digits.

    python benchmarks/train_step.py [--threads 1 2] [--batch 64] [--steps 12]

Prints the median time of forward, backward and Adam step for each number of threads, in turn within one
run, and their ratio to the first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

# read when torch is imported; the command line sets the same
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def main() -> None:
    """Parse arguments, run, print."""
    import torch

    from snnbench.models.network import build
    from snnbench.spec import make_run_spec

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12, help="timed steps for each")
    options = parser.parse_args()

    spec = make_run_spec("hd", "rec-lif", seed=0, data_fingerprint="")
    generator = torch.Generator().manual_seed(0)
    network = build(spec.model, spec.n_channels, 20, spec.train.dt_s, generator)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    # 7,500 spikes a recording, spread over all bins and channels
    rate = 7500 / (spec.n_steps * spec.n_channels)
    size = (spec.n_steps, options.batch, spec.n_channels)
    spikes = torch.poisson(torch.full(size, rate), generator=generator)
    labels = torch.randint(20, (options.batch,), generator=generator)

    def step() -> float:
        started = time.perf_counter()
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(spikes).logits, labels).backward()
        optimiser.step()
        return time.perf_counter() - started

    times: dict[int, list[float]] = {n: [] for n in options.threads}
    for _ in range(options.steps + 1):
        for threads, taken in times.items():
            torch.set_num_threads(threads)
            taken.append(step())
    medians = {n: statistics.median(taken[1:]) for n, taken in times.items()}
    print(f"batch {options.batch}, {spec.n_steps} bins, {spec.n_channels} channels, 128 units")
    for threads, seconds in medians.items():
        ratio = seconds / medians[options.threads[0]]
        print(f"{threads} threads: {seconds * 1e3:.1f} ms a step, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
