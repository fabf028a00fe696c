"""Which encoder a recipe asks for: the section it has decides."""

from __future__ import annotations

from snnbench.data_prep.cochlea_encoder import CochleaEncoder, cochlea_parameters
from snnbench.data_prep.encoding import Encoder
from snnbench.data_prep.latency import LatencyEncoder
from snnbench.data_prep.nmnist import EventFileEncoder
from snnbench.data_prep.randman import RandmanEncoder
from snnbench.data_prep.recipe import Recipe
from snnbench.data_prep.threshold_crossing import ThresholdCrossingEncoder
from snnbench.errors import SnnbenchError


def encoder_of(recipe: Recipe) -> Encoder:
    """The encoder that a recipe's sections ask for."""
    if recipe.audio is not None and recipe.cochlea is not None:
        parameters = cochlea_parameters(recipe.cochlea, recipe.n_units)
        return CochleaEncoder(recipe.audio, parameters, recipe.cochlea.seed, recipe.cochlea.mode)
    if recipe.latency is not None:
        return LatencyEncoder(recipe.latency, recipe.n_units)
    if recipe.threshold_crossing is not None:
        return ThresholdCrossingEncoder(recipe.threshold_crossing, recipe.n_units)
    if recipe.sensor is not None:
        return EventFileEncoder(recipe.sensor)
    if recipe.randman is not None:
        return RandmanEncoder(recipe.randman, recipe.n_units, recipe.duration_s)
    raise SnnbenchError(
        f"recipe {recipe.name}: names no way to make spikes; add [audio] and [cochlea], [latency],"
        " [threshold_crossing], [sensor] or [randman]"
    )
