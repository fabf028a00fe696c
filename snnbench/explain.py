"""A model in words, equations and counts, as facts that the command line prints or gives as JSON.

The equations are not written here a second time: a neuron's own step is run on SymPy symbols, with the
constants this model has at its bin width. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any

from snnbench.baseline_text import explain_baseline
from snnbench.connection_spec import ConvShape, DelayLineSpec, LearnedDelaySpec
from snnbench.memory import estimate_memory
from snnbench.model_spec import (
    LifSpec,
    ModelSpec,
    PerUnit,
    ReadoutSpec,
    SpikingReadoutSpec,
    SurrogateSpec,
)
from snnbench.models.kinds import AnySpec, constants_of, decay, kind_of, middle
from snnbench.models.neuron import Neuron, make_reset
from snnbench.models.neurons import leaky
from snnbench.models.surrogate import make_surrogate
from snnbench.sizes import count_operations, layer_sizes
from snnbench.spec import RunSpec, TrainSpec

ASSUMED_RATE_HZ = 10.0
"""Mean rate of every input and hidden unit where operations and memory are told without data."""

_LETTERS = {"current": "I", "membrane": "U", "adaptation": "w", "refractory": "R"}
_RESETS = {
    "subtract": "a spike takes the threshold off the membrane",
    "zero": "a spike sets the membrane to zero",
}


def explain(spec: RunSpec) -> dict[str, Any]:
    """All that is to be said about a run's model before it is trained.

    Keys: `layers` (inputs, units, weights, parameters), `neuron`, `surrogate`, `readout` (equations with
    numbers, time constants in seconds and steps), `loss`, `per_sample` (spikes and operations at an
    assumed rate), `memory` (bytes that training takes at that rate). A baseline has `hidden`, equations of
    its layers, in place of `neuron` and `surrogate`, and a readout without time constants.
    """
    parts = (
        _explain_spiking(spec.model, spec.n_channels, spec.train.dt_s)
        if isinstance(spec.model, ModelSpec)
        else explain_baseline(spec.model, spec.n_channels)
    )
    return {
        "layers": [
            {
                "layer": size.name,
                "inputs": size.n_inputs,
                "units": size.n_units,
                "weights": size.n_weights,
                "recurrent_weights": size.n_recurrent_weights,
                "parameters": size.n_parameters,
            }
            for size in layer_sizes(spec)
        ],
        **parts,
        "loss": explain_loss(spec.train),
        "per_sample": _per_sample(spec),
        "memory": _memory(spec),
    }


def _explain_spiking(model: ModelSpec, n_channels: int, dt_s: float) -> dict[str, Any]:
    neuron = explain_neuron(model.neuron, dt_s)
    drive = explain_drive(model, n_channels, dt_s)
    return {
        "neuron": {**neuron, "equations": [*drive, *neuron["equations"]]},
        "surrogate": explain_surrogate(model.surrogate),
        "readout": explain_readout(model.readout, dt_s),
    }


def explain_drive(model: ModelSpec, n_channels: int, dt_s: float) -> list[str]:
    """What hidden units receive, and from where; several lines where layers differ."""
    drives = []
    for connections in model.connections(n_channels):
        within = " + V S[n]" if connections.recurrent else ""
        if connections.around is not None:
            within = f" + (v * S[n], {connections.around.kernel} positions of all filters)"
        below, words = _from_below(connections.below, dt_s)
        normed = below if model.norm == "none" else f"{model.norm}_norm({below})"
        drives.append(f"D[n] = {normed}{within}{words}")
    if len(set(drives)) == 1:
        return drives[:1]
    return [f"in hidden{i}: {drive}" for i, drive in enumerate(drives, start=1)]


def _from_below(
    through: LearnedDelaySpec | DelayLineSpec | ConvShape | None, dt_s: float
) -> tuple[str, str]:
    """A formula for what comes from the layer below, and words that follow it."""
    if isinstance(through, ConvShape):
        words = (
            f"; {through.kernel} positions of each filter below, every {_ordinal(through.stride)}:"
            f" {through.filters} filters at {through.positions} positions"
        )
        return "w * S_in[n]", words
    if isinstance(through, LearnedDelaySpec):
        words = f"; d_ij learned, 0 to {through.max_s * 1e3:g} ms, {through.n_bins(dt_s)} steps"
        return "sum_j w_ij S_in_j[n - d_ij]", words
    if isinstance(through, DelayLineSpec):
        steps = ", ".join(map(str, through.bins(dt_s)))
        return "sum_k W_k S_in[n - d_k]", f"; d_k = {steps} steps"
    return "W S_in[n]", ""


def _ordinal(n: int) -> str:
    return {1: "one", 2: "second", 3: "third"}.get(n, f"{n}th")


def explain_neuron(spec: AnySpec, dt_s: float) -> dict[str, Any]:
    """Kind, equations and time constants of the hidden units, which receive D[n]."""
    kind, constants = kind_of(spec, dt_s), _typical_constants(spec, dt_s)
    distance = _in_letters(kind.neuron, constants)[1]
    return {
        "kind": spec.kind,
        "equations": _step_equations(kind.neuron, constants, spec.reset),
        "spike": f"S[n] = 1 where x = {distance} > 0, else 0",
        "reset": _RESETS[spec.reset]
        + ("" if spec.gradient_through_reset else "; the gradient does not go through that"),
        "constants": _numbers(constants),
        "time_constants": _time_constants(spec, dt_s),
        "per_unit": {
            name: _range_text(c) for name, c in constants_of(spec).items() if isinstance(c, PerUnit)
        },
    }


def _typical_constants(spec: AnySpec, dt_s: float) -> Any:
    """Constants of a unit in the middle of all ranges."""
    return kind_of(spec, dt_s).parameters(
        {name: middle(constant) for name, constant in constants_of(spec).items()}
    )


def _range_text(c: PerUnit) -> str:
    first = {
        "uniform": "drawn uniformly",
        "gamma": f"drawn from a gamma distribution, mean {c.mean:g}" if c.mean else "",
        "middle": "from the middle",
    }
    return f"{first[c.draw]} of {c.low:g} to {c.high:g}" + (", learned" if c.learned else "")


def explain_surrogate(spec: SurrogateSpec) -> dict[str, Any]:
    """What the backward pass takes for the derivative of a spike."""
    import sympy

    x = sympy.Symbol("x", real=True)
    derivative = make_surrogate(spec).derivative(x, _number(spec.slope))
    return {
        "kind": spec.kind,
        "slope": spec.slope,
        "peak": spec.peak,
        "formula": f"dS/dx = {_formula(derivative)}",
    }


def explain_readout(spec: ReadoutSpec | SpikingReadoutSpec, dt_s: float) -> dict[str, Any]:
    """Equations and time constants of the output units, and what of them is a logit."""
    kind: Neuron
    heard = "W S[n]"
    if isinstance(spec, SpikingReadoutSpec):
        neuron = LifSpec(**{k: getattr(spec, k) for k in ("tau_mem_s", "tau_syn_s", "threshold")})
        kind, constants = kind_of(neuron, dt_s).neuron, _typical_constants(neuron, dt_s)
        logit = {
            "spike-count": "number of spikes",
            "first-spike": f"minus the time of the first spike in units of {spec.scale_s:g} s",
        }[spec.kind]
    else:
        kind = leaky.LEAKY
        constants = leaky.Parameters(decay(dt_s, spec.tau_syn_s), decay(dt_s, spec.tau_mem_s))
        of = "softmax over classes of U[n]" if spec.reduce == "softmax-sum" else "U[n]"
        heard = heard if spec.norm == "none" else f"{spec.norm}_norm({heard})"
        logit = f"{spec.reduce.removeprefix('softmax-')} of {of} over all steps n"
    return {
        "kind": spec.kind,
        "equations": [f"D[n] = {heard}", *_step_equations(kind, constants, "subtract")],
        "logit": logit,
        "constants": _numbers(constants),
        "time_constants": _time_constants(spec, dt_s),
    }


def explain_loss(train: TrainSpec) -> list[str]:
    """Terms of the loss; z is a unit's mean number of spikes per sample."""
    first = "cross-entropy of softmax(logits) with the class, mean over the batch"
    if train.label_smoothing:
        first += f"; {train.label_smoothing:g} of a label is spread over all classes"
    if train.loss == "tempotron":
        first = "1 - logit of the class, logit - 1 of others, where positive; mean over the batch"
    activity, terms = train.activity, [first]
    for strength, scope, unit, layer in (
        (
            activity.lower_strength,
            activity.lower_scope,
            f"mean over units of max(0, {activity.lower:g} - z)^2",
            f"max(0, {activity.lower:g} - mean of z over units)^2",
        ),
        (
            activity.upper_strength,
            activity.upper_scope,
            f"mean over units of max(0, z - {activity.upper:g})^2",
            f"max(0, mean of z over units - {activity.upper:g})^2",
        ),
    ):
        if strength:
            term = unit if scope == "unit" else layer
            terms.append(f"{strength:g} * {term}, for every hidden layer")
    return terms


def _per_sample(spec: RunSpec) -> dict[str, Any]:
    spikes_of_unit = ASSUMED_RATE_HZ * spec.task.duration_s
    input_spikes = spikes_of_unit * spec.task.n_units
    sizes = layer_sizes(spec)
    spiking = sizes[:-1] if isinstance(spec.model, ModelSpec) else []
    spikes = {size.name: spikes_of_unit * size.n_units for size in spiking}
    work = count_operations(
        sizes,
        n_steps=spec.n_steps,
        input_spikes=input_spikes,
        hidden_spikes=list(spikes.values()),
    )
    return {
        "assumed_rate_hz": ASSUMED_RATE_HZ,
        "input_spikes": input_spikes,
        "spikes": spikes,
        **work._asdict(),
    }


def _memory(spec: RunSpec) -> dict[str, Any]:
    input_spikes = ASSUMED_RATE_HZ * spec.task.duration_s * spec.task.n_units
    estimate = estimate_memory(spec, input_spikes=input_spikes)
    return {**estimate._asdict(), "total": estimate.total, "text": str(estimate)}


def _step_equations(kind: Neuron, constants: Any, reset: Any) -> list[str]:
    """The state at n + 1 from that at n, with this model's numbers."""
    after = _in_letters(kind, constants, reset)[0]
    return [
        f"{_letter(part)}[n+1] = {text}"
        for part, text in zip(kind.State._fields, after, strict=True)
    ]


def _in_letters(
    kind: Neuron, constants: Any, reset: Any = "subtract"
) -> tuple[list[str], str | None]:
    """The next state, part by part, and the distance from threshold, as formulas in U[n], D[n], S[n]."""
    import sympy

    state = kind.State(*(sympy.Symbol(f"{_letter(part)}[n]") for part in kind.State._fields))
    drive, spike = sympy.symbols("D[n] S[n]")
    p = type(constants)(*map(_number, constants))
    after = kind.step(drive, spike, state, p, make_reset(reset, spike))
    distance = None if kind.distance is None else _formula(kind.distance(state, p))
    return [_formula(part) for part in after], distance


def _number(value: float) -> Any:
    """A number in a formula: four digits are enough to read, and whole ones stay whole."""
    import sympy

    return sympy.Integer(int(value)) if float(value).is_integer() else sympy.Float(value, 4)


def _formula(expression: Any) -> str:
    """A SymPy expression as one writes it by hand."""
    import sympy

    if isinstance(expression, sympy.Piecewise):
        (value, condition), (otherwise, _) = expression.args
        return f"{_formula(value)} where {_formula(condition)}, else {_formula(otherwise)}"
    text = str(expression).replace("**", "^").replace("*", " ").replace("/", " / ")
    return text.replace("Abs(x)", "|x|")


def _letter(part: str) -> str:
    return _LETTERS.get(part, part)


def _numbers(constants: Any) -> dict[str, float]:
    return {name: float(value) for name, value in constants._asdict().items()}


def _time_constants(spec: Any, dt_s: float) -> list[dict[str, Any]]:
    names = [name for name in type(spec).model_fields if name.startswith("tau_")]
    taus = {name: middle(getattr(spec, name)) for name in names}
    return [
        {"name": name, "seconds": tau, "steps": tau / dt_s, "decay_per_step": decay(dt_s, tau)}
        for name, tau in taus.items()
    ]
