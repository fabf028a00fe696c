"""Speed and memory of the cochlea, beside lauscher where a Python has it.

    python benchmarks/cochlea.py FILE.wav ... [--lauscher PYTHON] [--preset lauscher] [--repeats 5]

Every file, at its own rate, goes through our fast and our exact mode and, with --lauscher, through
`PYTHON -m lauscher -j 1`: the same sound in the same run, one core each. Each gets a process of its own
and is charged for all of it, start-up included ("process"); ours is then called again and again in that
process ("again"), as it is when a data set is converted. Memory is the peak of all processes together
(PSS). Our compiled code and tables are made before, once, and what that takes is printed.

At the end, sound converted by one process and by two side by side, in wall time. lauscher needs some
five CPU minutes and 9 GB of memory per second of 48 kHz sound. It runs on Linux only, for /proc.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile

from snnbench.data_prep.audio import load_audio
from snnbench.data_prep.cochlea import PRESETS, cochlea_spikes

WORKER_RECORDINGS = 48


class Cost(NamedTuple):
    """What a process took: CPU seconds with its children, peak memory of all, in MiB."""

    cpu_s: float
    peak_mib: float
    printed: str


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="lauscher")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lauscher", metavar="PYTHON", help="interpreter that has lauscher")
    parser.add_argument("--one", metavar="MODE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        convert_here(arguments.files[0], arguments.one, arguments.preset, arguments.repeats)
        return

    for mode in ("fast", "exact"):
        warm_up = cost_of(own_command(arguments, arguments.files[0], mode, 1))
        print(f"{mode}, once per machine or from the cache: {warm_up.cpu_s:.1f} CPU s")
    for file in arguments.files:
        header = soundfile.info(file)
        sound_s = header.frames / header.samplerate
        print(f"\n{file}: {sound_s:.3f} s of sound at {header.samplerate} Hz")
        peer_cpu_s = None
        if arguments.lauscher:
            peer = lauscher(arguments.lauscher, file)
            peer_cpu_s = peer.cpu_s / sound_s
            print(
                f"  lauscher {peer_cpu_s:8.2f} CPU s per s of sound, {peer.peak_mib:.0f} MiB,"
                f" {peer.printed} spikes"
            )
        for mode in ("fast", "exact"):
            report(own_command(arguments, file, mode, arguments.repeats), mode, sound_s, peer_cpu_s)
    print()
    throughput(arguments.files[0], arguments.preset, arguments.repeats)


def own_command(arguments: argparse.Namespace, file: str, mode: str, repeats: int) -> list[str]:
    """This script in a process of its own, for one file and mode."""
    own = ["--one", mode, "--preset", arguments.preset, "--repeats", str(repeats)]
    return [sys.executable, __file__, file, *own]


def convert_here(file: str, mode: Any, preset: str, repeats: int) -> None:
    """Convert a file once and again; print the CPU seconds of each and the spikes as JSON."""
    sound, rate_hz = load_audio(file, sample_rate_hz=None)
    cpu_s = []
    for seed in range(1 + repeats):
        started = time.process_time() if seed else 0.0  # 0: since the process started
        spikes = cochlea_spikes(
            sound, rate_hz, parameters=PRESETS[preset], seed=seed, key=None, mode=mode
        )
        cpu_s.append(time.process_time() - started)
    print(json.dumps({"cpu_s": cpu_s, "spikes": len(spikes.times)}))


def report(command: list[str], mode: str, sound_s: float, peer_cpu_s: float | None) -> None:
    """Print what our mode takes, first and again, and the ratios to lauscher."""
    cost = cost_of(command)
    found = json.loads(cost.printed)
    first, again = found["cpu_s"][0] / sound_s, float(np.median(found["cpu_s"][1:])) / sound_s
    line = f"  {mode:8} {again:8.3f} CPU s per s of sound again, {first:.2f} process, "
    line += f"{cost.peak_mib:.0f} MiB, {found['spikes']} spikes"
    if peer_cpu_s:
        line += (
            f"; lauscher / ours {peer_cpu_s / again:.0f} again, {peer_cpu_s / first:.0f} process"
        )
    print(line)


def lauscher(python: str, file: str) -> Cost:
    """Convert a file with lauscher; the number of spikes is what is printed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "spikes.npz")
        cost = cost_of([python, "-m", "lauscher", "-j", "1", file, str(out)])
        return cost._replace(printed=str(np.load(out)["arr_0"].shape[1]))


def cost_of(command: list[str]) -> Cost:
    """Run a command to its end and say what it cost."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak_bytes = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak_bytes
        while not done.wait(0.05):
            peak_bytes = max(peak_bytes, memory_of_tree(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stdout
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command}: exit code {process.returncode}")
    peak_bytes = max(peak_bytes, 1024 * usage.ru_maxrss)  # the watcher may miss a short peak
    return Cost(usage.ru_utime + usage.ru_stime, peak_bytes / 2**20, printed.strip())


def memory_of_tree(pid: int) -> int:
    """Proportional memory of a process and all its descendants, in bytes."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # ended meanwhile
        return 0
    own = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return 1024 * own + sum(memory_of_tree(int(child)) for child in children)


def throughput(file: str, preset: str, repeats: int) -> None:
    """Print seconds of sound converted in a second of wall time, with one and two processes."""
    sound, rate_hz = load_audio(file, sample_rate_hz=None)
    sound_s = WORKER_RECORDINGS * len(sound) / rate_hz
    context = multiprocessing.get_context("spawn")
    speeds: dict[int, list[float]] = {1: [], 2: []}
    with context.Pool(1) as one, context.Pool(2) as two:
        pools = {1: one, 2: two}
        work = [(sound, rate_hz, preset, key) for key in range(WORKER_RECORDINGS)]
        for turn in range(1 + repeats):
            for n, pool in pools.items():
                started = time.perf_counter()
                pool.starmap(count_spikes, work, chunksize=2)
                if turn:  # the first turn loads compiled code
                    speeds[n].append(sound_s / (time.perf_counter() - started))
    ratio = np.median(np.array(speeds[2]) / np.array(speeds[1]))
    print(
        f"{file}, fast: {np.median(speeds[1]):.1f} s of sound a second with one process,"
        f" {np.median(speeds[2]):.1f} with two: {ratio:.2f} times (medians of {repeats}, in turn)"
    )


def count_spikes(sound: np.ndarray, rate_hz: int, preset: str, key: int) -> int:
    """What a worker does with a recording."""
    spikes = cochlea_spikes(sound, rate_hz, parameters=PRESETS[preset], seed=0, key=key)
    return len(spikes.times)


if __name__ == "__main__":
    main()
