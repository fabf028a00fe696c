"""Who proposes values, and who ends a trial early: Optuna's samplers and pruners by name.

    tpe      Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization; the first ten at random
    random   each value on its own
    cmaes    Hansen & Ostermeier 2001, Completely Derandomized Self-Adaptation in Evolution Strategies,
             for numbers; choices at random
    gp       a Gaussian process with expected improvement; the first ten at random
    grid     every combination once, in an order that follows from the seed

A pruner ends a trial after an epoch:

    median     from a quarter of all epochs on, when its best accuracy so far is below the median of what the
               completed trials, five at least, had after that epoch
    hyperband  Li et al. 2018, Hyperband, in Optuna's form, which waits for nobody: the worse two thirds of a
               bracket after 1, 3, 9, ... epochs, the first of which depends on the bracket
    none       never
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

from snnbench.errors import SnnbenchError, UsageError
from snnbench.search_space import Space, Values

SamplerName = Literal["tpe", "random", "cmaes", "gp", "grid"]
PrunerName = Literal["median", "hyperband", "none"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
PRUNERS: tuple[PrunerName, ...] = get_args(PrunerName)

WARMUP = 0.25
"""Part of a trial's epochs before which the median pruner never ends it."""

_SETTINGS: Mapping[SamplerName, Mapping[str, Any]] = {
    # constant_liar: trials that run beside each other do not all try the same place
    "tpe": {"n_startup_trials": 10, "constant_liar": True},
    "random": {},
    "cmaes": {"n_startup_trials": 1, "warn_independent_sampling": False},
    "gp": {
        "n_startup_trials": 10,
        "deterministic_objective": False,
        "warn_independent_sampling": False,
    },
    "grid": {},
}


def pinned_sampler(name: SamplerName) -> dict[str, Any]:
    """What a study says of its sampler."""
    return {"name": name, "settings": dict(_SETTINGS[name])}


def pinned_pruner(name: PrunerName, epochs: int) -> dict[str, Any]:
    """What a study says of its pruner, for trials of so many epochs."""
    settings: dict[PrunerName, dict[str, Any]] = {
        "median": {"n_startup_trials": 5, "n_warmup_steps": round(WARMUP * epochs)},
        "hyperband": {"min_resource": 1, "max_resource": epochs, "reduction_factor": 3},
        "none": {},
    }
    return {"name": name, "settings": settings[name]}


def make_sampler(pinned: Mapping[str, Any], seed: int, point: Values | None = None) -> Any:
    """The sampler that a study has pinned, for one trial; of a grid, for this `point` of it."""
    from optuna import samplers

    kinds = {
        "tpe": samplers.TPESampler,
        "random": samplers.RandomSampler,
        "cmaes": samplers.CmaEsSampler,
        "gp": samplers.GPSampler,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a sampler is new to Optuna
        if point is not None:
            return samplers.PartialFixedSampler(point, samplers.RandomSampler(seed=seed))
        return kinds[pinned["name"]](seed=seed, **pinned["settings"])


def make_pruner(pinned: Mapping[str, Any]) -> Any:
    """The pruner that a study has pinned."""
    from optuna import pruners

    kinds = {
        "median": pruners.MedianPruner,
        "hyperband": pruners.HyperbandPruner,
        "none": pruners.NopPruner,
    }
    return kinds[pinned["name"]](**pinned["settings"])


def check_sampler(name: SamplerName, space: Space, objectives: int) -> None:
    """Refuse a sampler that cannot do what is asked of it.

    Raises
    ------
    UsageError
        A grid of a range without steps; cmaes with several objectives.
    SnnbenchError
        A package that it needs is not installed.
    """
    if name == "grid":
        space.grid()
    if name == "cmaes" and objectives > 1:
        raise UsageError(
            "--sampler cmaes has one objective only; take tpe, gp, random or grid for several"
        )
    if name == "cmaes":
        try:
            import cmaes  # noqa: F401
        except ImportError as error:
            raise SnnbenchError(
                f"--sampler cmaes needs the package cmaes ({error}): pip install cmaes"
            ) from None
