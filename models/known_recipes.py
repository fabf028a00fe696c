"""Recipes by name: an operator of torch.library takes names, and finds here what they stand for."""

from __future__ import annotations

from itertools import count
from typing import Any

from snnbench.models.derivation import Recipe, derive

_KNOWN: dict[str, Recipe] = {}


def name_of(recipe: Recipe) -> str:
    """A name under which `recipe_called` finds the recipe again."""
    surrogate = recipe.surrogate.kind if recipe.surrogate else "none"
    name = "/".join(
        [
            recipe.neuron.kind,
            recipe.reset,
            "through-reset" if recipe.gradient_through_reset else "past-reset",
            surrogate,
            "+".join(recipe.parameter_gradients),
        ]
    )
    # somebody may try several neurons under one name, and a backward pass of an earlier one be yet to come
    for number in count():
        numbered = f"{name}#{number}" if number else name
        known = _KNOWN.setdefault(numbered, recipe)
        if _meaning(known) == _meaning(recipe):
            return numbered
    raise AssertionError("count() does not end")


def recipe_called(name: str) -> Recipe:
    """What `name_of` was given."""
    return _KNOWN[name]


def names_to_keep(keep: str, recipe: Recipe) -> tuple[str, ...]:
    """What an operator is to keep, from names with commas between.

    `for-backward` stands for all that the recipe's backward pass reads.
    """
    names = set(keep.split(","))
    return tuple(names | set(derive(recipe).kept if "for-backward" in names else ()))


def _meaning(recipe: Recipe) -> tuple[Any, ...]:
    # without the slope, which kernels are told at every call: all slopes share one recipe
    return recipe.neuron, recipe.surrogate and recipe.surrogate.derivative
