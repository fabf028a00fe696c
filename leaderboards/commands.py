"""The commands that train seeds again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from snnbench.errors import UsageError
from snnbench.leaderboards.details import flat
from snnbench.spec import RunSpec, load_model, load_task


def training_commands(spec: RunSpec, seeds: Sequence[int]) -> str:
    """Shell lines that train these seeds of a run; empty where its model or task is none that ships."""
    try:
        model, train = load_model(spec.model.name).specs(spec.task.name, {})
        usual = load_task(spec.task.name).protocol
    except UsageError:
        return ""
    shipped = flat({"model": model.model_dump(), "train": train.model_dump()})
    used = flat({"model": spec.model.model_dump(), "train": spec.train.model_dump()})
    options = "".join(f" --set {k}={_set_value(v)}" for k, v in used.items() if shipped.get(k) != v)
    if spec.task.protocol != usual:
        options += f" --protocol {spec.task.protocol}"
    if not spec.task.synthetic:
        options += f" --data {spec.task.dataset}.h5"
    names = f"{spec.task.name} {spec.model.name}"
    if list(seeds) == list(range(len(seeds))):
        return f"snnbench bench {names}{options} --seeds {len(seeds)}"
    return "\n".join(f"snnbench train {names}{options} --seed {seed}" for seed in seeds)


def _set_value(value: Any) -> str:
    """A value for `--set`, quoted where a shell would split or expand it."""
    return shlex.quote(str(value).lower() if isinstance(value, bool) else str(value))
