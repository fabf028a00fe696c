"""What the page says of a row when it is opened: groups of facts, and drawings."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from snnbench.leaderboards.curves import confusion_of, curves_of
from snnbench.leaderboards.robustness_view import changed_of
from snnbench.leaderboards.table import Row
from snnbench.record import Footprint, LayerWork, RunRecord

Facts = dict[str, Any]
"""Name to text or number; shown as a table of two columns."""


def details_of(row: Row) -> dict[str, Any]:
    """Everything the template shows of a row beside its records."""
    spec = row.records[0].spec
    return {
        "by_group": row.by_group(),
        "heard_before": _heard_before(row.records),
        "confusion": confusion_of(row),
        "curves": curves_of(row),
        "changed": changed_of(row),
        "cost": _cost(row),
        "layers": _layers(row.records),
        "spec": flat({"model": spec.model.model_dump(), "train": spec.train.model_dump()}),
        "environment": _environment(row.records),
        "same_environment": len({r.environment.model_dump_json() for r in row.records}) == 1,
        "provenance": _provenance(row),
    }


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones, as in `--set`."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = list(value) if isinstance(value, tuple) else value
    return found


def duration(seconds: float) -> str:
    """A time as people say it: 8.25 s, 4 min 12 s, 3 h 05 min."""
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return "{} h {:02d} min".format(*divmod(round(seconds / 60), 60))


def short(number: float) -> str:
    """Three digits and a prefix: 15 M."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= factor:
            return f"{number / factor:.3g}{prefix}"
    return f"{number:.3g}"


def size(n_bytes: float) -> str:
    """Bytes in the binary unit that leaves one to four digits."""
    for unit in ("bytes", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.4g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.4g} GiB"


def _cost(row: Row) -> Facts:
    """Work per sample, size and time; means over seeds, and medians of what a clock measured."""
    records = row.records
    facts: Facts = {}
    work = [r.operations for r in records if r.operations]
    if work:
        facts["dense MACs a sample"] = f"{statistics.fmean(o.dense_macs for o in work):,.0f}"
        facts["effective ACs a sample"] = f"{statistics.fmean(o.effective_acs for o in work):,.0f}"
        facts |= {
            f"spikes of {layer}": f"{mean:,.1f}"
            for layer, mean in _by_layer(o.spikes for o in work).items()
        }
    facts["parameters"] = f"{row.n_parameters:,}"
    footprint = [r.footprint for r in records if r.footprint]
    if footprint:
        facts |= _footprint(footprint)
    if row.training_s is not None:
        facts["training, median"] = duration(row.training_s)
    facts["one epoch, median"] = duration(row.seconds_per_epoch)
    if stacks := [r.stack.seeds for r in records if r.stack]:
        facts["seeds that shared a process and its time, at most"] = max(stacks)
    memory = [r.peak_memory_bytes for r in records if r.peak_memory_bytes]
    if memory:
        facts["memory at most"] = size(max(memory))
    facts["trials spent on tuning"] = max(r.tuning_trials for r in records)
    return facts


def _footprint(found: list[Footprint]) -> Facts:
    return {
        "size in memory": size(max(f.n_bytes for f in found)),
        "weights that are 0": f"{statistics.fmean(f.connection_sparsity for f in found):.2%}",
        **{
            f"silence of {layer}": f"{mean:.2%}"
            for layer, mean in _by_layer(f.activation_sparsity for f in found).items()
        },
    }


def _layers(records: Iterable[RunRecord]) -> dict[str, LayerWork]:
    """Operations per sample by layer, means over the seeds that tell them."""
    told = [r.operations.layers for r in records if r.operations and r.operations.layers]

    def mean(of: Callable[[LayerWork], float]) -> dict[str, float]:
        return _by_layer({name: of(work) for name, work in layers.items()} for layers in told)

    dense, acs, macs = (
        mean(lambda w: w.dense),
        mean(lambda w: w.effective_acs),
        mean(lambda w: w.effective_macs),
    )
    return {
        name: LayerWork(dense=dense[name], effective_acs=acs[name], effective_macs=macs[name])
        for name in dense
    }


def _by_layer(found: Iterable[dict[str, float]]) -> dict[str, float]:
    """Mean by layer, layers in the order of the first that names them."""
    values: dict[str, list[float]] = {}
    for layers in found:
        for name, value in layers.items():
            values.setdefault(name, []).append(value)
    return {name: statistics.fmean(of) for name, of in values.items()}


def _heard_before(records: Iterable[RunRecord]) -> dict[str, float]:
    """Accuracy by whether a test speaker is heard in training; empty unless there are both."""
    parts = [r.heard_before() for r in records if r.test]
    accuracies = _by_layer({k: c.accuracy for k, c in part.items()} for part in parts)
    return accuracies if len(accuracies) == 2 else {}


def _environment(records: tuple[RunRecord, ...]) -> Facts:
    """Of the first seed."""
    environment = records[0].environment
    facts: Facts = {"python": environment.python, **environment.packages}
    facts |= {"device": environment.device, "processor": environment.processor}
    if environment.engine:
        facts["engine"] = environment.engine
    facts |= {"platform": environment.platform, "threads": environment.threads}
    return facts | {"deterministic": environment.deterministic}


def _provenance(row: Row) -> Facts:
    """Where the row's runs come from."""
    records = row.records
    commits = {
        (r.environment.commit or "outside a checkout")[:12]
        + (", uncommitted changes" if r.environment.dirty else "")
        for r in records
    }
    days = sorted({r.started_at[:10] for r in records})
    facts: Facts = {
        "snnbench": ", ".join(sorted({r.environment.snnbench for r in records})),
        "commit": ", ".join(sorted(commits)),
        "trained": days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
        "test split read": ", ".join(sorted({f"{r.test_reads} ×" for r in records if r.test})),
        "fingerprint of the data": records[0].data.fingerprint[:12],
    }
    facts |= {f"{split} samples": f"{n:,}" for split, n in records[0].data.n_samples.items()}
    for rerun in row.reruns:
        where = f"{rerun.device}, commit {(rerun.commit or 'none')[:12]}"
        day = rerun.started_at[:10]
        facts[f"seed {rerun.seed} again"] = f"{rerun.result}; {rerun.by}, {day}, {where}"
    return {key: value for key, value in facts.items() if value != ""}
