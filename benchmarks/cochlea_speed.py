"""Speed and memory of the cochlea: CPU seconds for a second of sound, in one process.

    python benchmarks/cochlea_speed.py [FILE.wav ...] [--preset shd] [--repeats 5]
                                       [--lauscher PYTHON]

Without files a synthetic sound of one second is used. The table of the membrane is made (or read from
the cache) and everything is compiled before the clock starts; both are reported on their own.

With --lauscher and a Python that has lauscher installed (an environment of its own), the same sound is
converted by `PYTHON -m lauscher -j 1` too, start-up included, and the ratio is printed. That takes
about five CPU minutes and 9 GB of memory per second of 48 kHz sound.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from snnbench.data_prep.audio import load_audio
from snnbench.data_prep.basilar_membrane import membrane_filter
from snnbench.data_prep.cochlea import PRESETS, cochlea_spikes


def main() -> None:
    """Parse arguments, convert, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="shd")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lauscher", metavar="PYTHON", help="interpreter that has lauscher")
    arguments = parser.parse_args()
    parameters = PRESETS[arguments.preset]

    sounds = [
        (path, *load_audio(path, sample_rate_hz=48000, downmix=True, resample=True))
        for path in arguments.files
    ]
    if not sounds:
        noise = np.random.default_rng(0).standard_normal(48000)
        sounds = [("noise", noise * np.sin(np.arange(48000) / 2000) ** 2, 48000)]

    start = time.process_time()
    membrane_filter(parameters.n_channels, parameters.membrane)
    print(f"table of the membrane: {time.process_time() - start:.2f} CPU s")
    start = time.process_time()
    cochlea_spikes(sounds[0][1][:4800], 48000, parameters=parameters, seed=0, key=0)
    print(f"loading compiled code: {time.process_time() - start:.2f} CPU s")

    for path, sound, rate_hz in sounds:
        cpu_s = []
        for repeat in range(arguments.repeats):
            start = time.process_time()
            spikes = cochlea_spikes(sound, rate_hz, parameters=parameters, seed=repeat, key=path)
            cpu_s.append((time.process_time() - start) / (len(sound) / rate_hz))
        print(
            f"{path}: {len(sound) / rate_hz:.3f} s of sound, {len(spikes.times)} spikes, CPU s per "
            f"s of sound: median {np.median(cpu_s):.3f}, least {min(cpu_s):.3f}"
        )
        if arguments.lauscher:
            report_peer(arguments.lauscher, sound, rate_hz, float(np.median(cpu_s)))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the process: {peak_mib:.0f} MiB")


def report_peer(python: str, sound: np.ndarray, rate_hz: int, ours_cpu_s: float) -> None:
    """Convert the same sound with lauscher and print its CPU time, spikes, and the ratio to ours."""
    with tempfile.TemporaryDirectory() as folder:
        wav, out = Path(folder, "sound.wav"), Path(folder, "spikes.npz")
        soundfile.write(wav, sound / max(1.0, np.abs(sound).max()), rate_hz, subtype="PCM_16")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([python, "-m", "lauscher", "-j", "1", wav, out], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        n_spikes = np.load(out)["arr_0"].shape[1]
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cpu_s /= len(sound) / rate_hz
    print(
        f"  lauscher: {n_spikes} spikes, {cpu_s:.1f} CPU s per s of sound,"
        f" {cpu_s / ours_cpu_s:.0f} times ours"
    )


if __name__ == "__main__":
    main()
