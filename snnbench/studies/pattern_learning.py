"""Learning a looped spike pattern with SuperSpike: the work that most of its studies share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.errors import SnnbenchError
from snnbench.studies.patterns import Pattern, load_pattern
from snnbench.studies.study import Report

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from snnbench.models.superspike import Block

HIT_WITHIN_S = 2e-3
"""A target spike is hit by an output spike this near."""
TRACE_EVERY_S = 0.5e-3
"""Distance of the points of a kept membrane."""
_SAVE_EVERY_S = 20.0
"""Wall time between checkpoints."""


def task(
    pattern: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    hidden: Sequence[int],
    seconds: float,
    feedback: str = "symmetric",
    sign: int = 0,
    rate_mv: float = 1.0,
    update: str = "rmaxprop",
    rule: str = "superspike",
    rho: float = 0.0,
    exponent: int = 4,
    burn_in_s: float = 0.0,
    cut_after_s: float | None = None,
    every_s: float = 5.0,
    frames_s: Sequence[float] = (),
    traces_s: Sequence[float] = (),
    angles: bool = False,
) -> dict[str, Any]:
    """Arguments of a job of `learn`.

    Parameters
    ----------
    pattern : description as of `snnbench.studies.patterns`.
    seeds : networks that learn side by side.
    hidden : sizes of hidden layers; none makes the input reach the output directly.
    seconds : of learning, biological time.
    sign : 1 or -1 for random feedback of one sign.
    rho : strength of the heterosynaptic term of hidden layers.
    burn_in_s : before learning; times count from its end.
    cut_after_s : the rate is divided by ten from here on.
    every_s : distance of the points of the curve.
    frames_s : training times at which a loop's spikes are kept, of the first seed.
    traces_s : training times at which a block of the output's membrane and error is kept, likewise.
    angles : also the angle between hidden gradients and those of symmetric feedback.
    """
    return {
        "pattern": dict(pattern),
        "seeds": list(seeds),
        "hidden": list(hidden),
        "seconds": seconds,
        "feedback": feedback,
        "sign": sign,
        "rate_mv": rate_mv,
        "update": update,
        "rule": rule,
        "rho": rho,
        "exponent": exponent,
        "burn_in_s": burn_in_s,
        "cut_after_s": cut_after_s,
        "every_s": every_s,
        "frames_s": list(frames_s),
        "traces_s": list(traces_s),
        "angles": angles,
    }


def learn(a: Mapping[str, Any], report: Report, scratch: Path) -> dict[str, Any]:
    """Train networks on a pattern.

    Returns
    -------
    times_s and metric [seed][point], the distance's mean over outputs; hits [seed], share of target spikes
    hit in the last 10 s; rates_hz [layer][seed] there; cv [seed], of hidden intervals between spikes;
    frames and traces, if asked; angles_deg [seed][point], if asked; diverged, a message, where rates ran
    away.
    """
    run = _Run(a)
    run.resume(scratch)
    saved_at = time.monotonic()
    try:
        while run.block < run.blocks:
            run.step()
            report(run.block / run.blocks)
            # feedback weights that learn are not in the checkpoint; such jobs are short
            if time.monotonic() - saved_at > _SAVE_EVERY_S and a["feedback"] != "learned":
                run.save(scratch)
                saved_at = time.monotonic()
    except SnnbenchError as error:
        return {**run.result(), "diverged": str(error)}
    return run.result()


class _Run:
    """Where a job stands."""

    def __init__(self, a: Mapping[str, Any]) -> None:
        import torch

        from snnbench.models.online.constants import Heterosynaptic
        from snnbench.models.online.feedback import make_feedback
        from snnbench.models.online.rules import rule_named
        from snnbench.models.online.updates import Update
        from snnbench.models.superspike import Learner, Settings, initial_weights

        self.a = a
        self.settings = Settings(
            rule=rule_named(a["rule"]),
            update=Update(kind=a["update"], rate_mv=a["rate_mv"]),
            heterosynaptic=Heterosynaptic(a["rho"], a["exponent"]) if a["rho"] else None,
            linear_hidden=a["feedback"] == "symmetric-linear",
        )
        dt_s = self.settings.neuron.dt_s
        patterns = [load_pattern(a["pattern"], dt_s, seed) for seed in a["seeds"]]
        self.inputs, self.targets = _stacked(patterns)
        generators = [torch.Generator().manual_seed(seed) for seed in a["seeds"]]
        sizes = (self.inputs.shape[2], *a["hidden"], self.targets.shape[2])
        weights = initial_weights(sizes, generators)
        feedback = make_feedback(a["feedback"], weights, generators, sign=a["sign"])
        self.learner = Learner(weights, feedback, self.settings)
        self.block = 0
        self.burn_in = round(a["burn_in_s"] / self.settings.block_s)
        self.blocks = self.burn_in + round(a["seconds"] / self.settings.block_s)
        self.every = max(1, round(a["every_s"] / self.settings.block_s))
        self.last = max(1, round(10.0 / self.settings.block_s))
        self.curve: list[list[float]] = []
        self.times: list[float] = []
        self.angles: list[list[float]] = []
        self.counts: list[list[list[float]]] = []
        self.hits: list[list[float]] = []
        self.frames: list[dict[str, Any]] = []
        self.intervals: list[list[list[list[int]]]] = []
        self._window: _Window | None = None
        self.traces: list[dict[str, Any]] = []
        self._frames_to_come = sorted(a["frames_s"])
        self._traces_to_come = sorted(a["traces_s"])

    def step(self) -> None:
        """One block, and what is to be kept of it."""
        a, s = self.a, self.settings
        steps, now_s = s.steps, (self.block - self.burn_in) * s.block_s
        inputs, targets = (
            _looped(x, self.block * steps, steps) for x in (self.inputs, self.targets)
        )
        self._open_window(now_s)
        learning = self.block >= self.burn_in
        point = self.block % self.every == 0
        if a["angles"] and point and learning:
            self.angles.append(self._angles(inputs, targets))
        cut = a["cut_after_s"] is not None and now_s >= a["cut_after_s"]
        if point:
            self._add_point(now_s)
        done = self.learner.run(inputs, targets, learn=learning, rate_scale=0.1 if cut else 1.0)
        self.block += 1
        self._fill_window(done)
        if self._traces_to_come and now_s >= self._traces_to_come[0]:
            self._keep_trace(self._traces_to_come.pop(0), now_s, done)
        if self.block > self.blocks - self.last:
            self._count(done, targets)
        if self.block == self.blocks:
            self._add_point(now_s + s.block_s)

    def _add_point(self, now_s: float) -> None:
        if self.block and now_s >= 0:
            self.times.append(now_s)
            self.curve.append(self.learner.metric().mean(1).tolist())

    def result(self) -> dict[str, Any]:
        """See `learn`."""
        return {
            "source": self.a["pattern"]["source"],
            "times_s": self.times,
            "metric": _by_seed(self.curve, len(self.a["seeds"])),
            "angles_deg": _by_seed(self.angles, len(self.a["seeds"])),
            "hits": [_mean(x) for x in _by_seed(self.hits, len(self.a["seeds"]))],
            "rates_hz": [[_mean(x) for x in zip(*layer, strict=True)] for layer in self._rates()],
            "cv": self._variation(),
            "frames": self.frames,
            "traces": self.traces,
            "targets": _events(self.targets[:, 0]) if self._shown else [],
            "inputs": _events(self.inputs[:, 0]) if self._shown else [],
        }

    @property
    def _shown(self) -> bool:
        return bool(self.a["frames_s"] or self.a["traces_s"])

    def _keep_trace(self, wanted_s: float, now_s: float, done: Block) -> None:
        every = round(TRACE_EVERY_S / self.settings.neuron.dt_s)
        membrane, error = done.membranes[-1][::every, 0, 0], done.errors[-1][::every, 0, 0]
        self.traces.append(
            {
                "wanted_s": wanted_s,
                "time_s": now_s,
                "membrane_mv": [round(x, 3) for x in membrane.tolist()],
                "error": [round(x, 7) for x in error.tolist()],
                "spikes": [t for t, unit in _events(done.spikes[-1][:, 0]) if unit == 0],
            }
        )

    def _rates(self) -> list[list[list[float]]]:
        layers = len(self.learner.weights)
        return [[block[k] for block in self.counts] for k in range(layers)] if self.counts else []

    def _variation(self) -> list[float]:
        """Coefficient of variation of hidden units' intervals, mean over units with 5 or more."""
        import numpy as np

        if not self.intervals:
            return []
        out = []
        for seed in range(len(self.a["seeds"])):
            per_unit: dict[int, list[int]] = {}
            for block in self.intervals:
                for unit, at in block[seed]:
                    per_unit.setdefault(unit, []).append(at)
            gaps = [np.diff(x) for x in per_unit.values() if len(x) > 5]
            out.append(float(np.mean([g.std() / g.mean() for g in gaps])) if gaps else float("nan"))
        return [x if x == x else 0.0 for x in out]

    def _count(self, done: Block, targets: Tensor) -> None:
        dt_s = self.settings.neuron.dt_s
        self.counts.append([(x.float().mean((0, 2)) / dt_s).tolist() for x in done.spikes])
        self.hits.append(hit_share(done.spikes[-1], targets, round(HIT_WITHIN_S / dt_s)))
        if len(done.spikes) > 1:
            start = self.block * self.settings.steps
            self.intervals.append(
                [
                    [[u, start + t] for t, u in _events(done.spikes[0][:, seed])]
                    for seed in range(len(self.a["seeds"]))
                ]
            )

    def _angles(self, inputs: Tensor, targets: Tensor) -> list[float]:
        """Degrees between the hidden gradients of this feedback and of symmetric, both for this block."""
        import torch

        own, gradient = (
            self._gradient(kind, inputs, targets) for kind in (self.a["feedback"], "symmetric")
        )
        cosine = torch.nn.functional.cosine_similarity(own, gradient)
        return torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).tolist()

    def _gradient(self, kind: str, inputs: Tensor, targets: Tensor) -> Tensor:
        from snnbench.models.online.feedback import Symmetric
        from snnbench.models.superspike import Learner

        feedback = Symmetric() if kind == "symmetric" else self.learner.feedback
        twin = Learner([w.clone() for w in self.learner.weights], _Deaf(feedback), self.settings)
        twin.restore(self.learner.state())
        return twin.run(inputs, targets).gradients[0].flatten(1)

    def _open_window(self, now_s: float) -> None:
        if self._window is None and self._frames_to_come and now_s >= self._frames_to_come[0]:
            loop = self.inputs.shape[0]
            begin = -(-self.block * self.settings.steps // loop) * loop
            self._window = _Window(self._frames_to_come.pop(0), begin, begin + loop)

    def _fill_window(self, done: Block) -> None:
        if self._window is None:
            return
        first = (self.block - 1) * self.settings.steps
        self._window.add(first, [x[:, 0] for x in done.spikes])
        if first + self.settings.steps >= self._window.end:
            burn = self.burn_in * self.settings.steps
            begin_s = (self._window.begin - burn) * self.settings.neuron.dt_s
            metric = self.learner.metric()[0].mean().item()
            self.frames.append(self._window.frame(begin_s, metric))
            self._window = None

    def save(self, path: Path) -> None:
        """A checkpoint, whole or not at all."""
        import json

        from safetensors.torch import save_file

        from snnbench.paths import whole_file

        told = {name: getattr(self, name) for name in _TOLD}
        told["window"] = self._window.as_data() if self._window else None
        with whole_file(path) as temporary:
            save_file(
                {k: x.contiguous() for k, x in self.learner.state().items()},
                temporary,
                {"told": json.dumps(told)},
            )

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one that can be read."""
        import json

        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            return
        try:
            with safe_open(path, "pt") as file:
                told = json.loads(file.metadata()["told"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return
        self.learner.restore(state)
        for name in _TOLD:
            setattr(self, name, told[name])
        self._window = _Window(**told["window"]) if told["window"] else None


_TOLD = (
    "block",
    "curve",
    "times",
    "angles",
    "counts",
    "hits",
    "frames",
    "traces",
    "intervals",
    "_frames_to_come",
    "_traces_to_come",
)
"""What a checkpoint keeps beside the learner's state."""


class _Deaf:
    """A feedback that does not learn from a twin's updates."""

    learns_hidden = True

    def __init__(self, feedback: Any) -> None:
        self._feedback = feedback

    def matrices(self, weights: Sequence[Tensor]) -> list[Tensor]:
        matrices: list[Tensor] = self._feedback.matrices(weights)
        return matrices

    def learnt(self, changes: Sequence[Tensor]) -> None:
        pass


class _Window:
    """A whole loop that is being recorded, from its beginning."""

    def __init__(
        self, wanted_s: float, begin: int, end: int, layers: list[list[list[int]]] | None = None
    ) -> None:
        self.wanted_s, self.begin, self.end = wanted_s, begin, end
        self.layers: list[list[list[int]]] = layers or []

    def add(self, first: int, spikes: Sequence[Tensor]) -> None:
        self.layers = self.layers or [[] for _ in spikes]
        for kept, layer in zip(self.layers, spikes, strict=True):
            at = ((first + t - self.begin, u) for t, u in _events(layer))
            kept.extend([t, u] for t, u in at if 0 <= t < self.end - self.begin)

    def frame(self, begin_s: float, metric: float) -> dict[str, Any]:
        return {
            "wanted_s": self.wanted_s,
            "time_s": round(begin_s, 4),
            "metric": metric,
            "layers": self.layers,
        }

    def as_data(self) -> dict[str, Any]:
        return {
            "wanted_s": self.wanted_s,
            "begin": self.begin,
            "end": self.end,
            "layers": self.layers,
        }


def hit_share(spikes: Tensor, targets: Tensor, within: int) -> list[float]:
    """For each seed the share of target spikes with an output spike of the unit at most `within` steps away.

    spikes (time, seed, unit), targets (time, seed or 1, unit).
    """
    import torch

    wide = torch.nn.functional.max_pool1d(
        spikes.permute(1, 2, 0).float(), 2 * within + 1, stride=1, padding=within
    )
    wanted = targets.permute(1, 2, 0).float().expand_as(wide)
    there = wanted.sum((1, 2)).clamp(min=1)
    return ((wide * wanted).sum((1, 2)) / there).tolist()


def _stacked(patterns: Sequence[Pattern]) -> tuple[Tensor, Tensor]:
    import torch

    if len({p.source for p in patterns}) == 1 and all(
        torch.equal(p.inputs, patterns[0].inputs) for p in patterns
    ):
        return patterns[0].inputs, patterns[0].targets
    return (
        torch.cat([p.inputs for p in patterns], 1),
        torch.cat([p.targets for p in patterns], 1),
    )


def _looped(x: torch.Tensor, first: int, steps: int) -> torch.Tensor:
    import torch

    return x[(torch.arange(steps) + first) % x.shape[0]]


def _events(spikes: Tensor) -> list[list[int]]:
    events: list[list[int]] = spikes.nonzero().tolist()
    return events


def _by_seed(points: Sequence[Sequence[float]], seeds: int) -> list[list[float]]:
    return [[point[k] for point in points] for k in range(seeds)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if len(values) else 0.0
