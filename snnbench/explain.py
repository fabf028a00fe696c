"""A model in words, equations and counts, as facts that the command line prints or gives as JSON.

The equations are not written here a second time: a neuron's own step is run on SymPy symbols, with the
constants this model has at its bin width. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any

from snnbench.memory import estimate_memory
from snnbench.models.neuron import Neuron, make_reset
from snnbench.models.neurons import leaky, lif
from snnbench.models.surrogate import DERIVATIVES
from snnbench.sizes import count_operations, layer_sizes
from snnbench.spec import ActivitySpec, NeuronSpec, ReadoutSpec, RunSpec, SurrogateSpec

ASSUMED_RATE_HZ = 10.0
"""Mean rate of every input and hidden unit where operations and memory are told without data."""

_LETTERS = {"current": "I", "membrane": "U", "adaptation": "w"}
_RESETS = {
    "subtract": "a spike takes the threshold off the membrane",
    "zero": "a spike sets the membrane to zero",
}


def explain(spec: RunSpec) -> dict[str, Any]:
    """All that is to be said about a run's model before it is trained.

    Keys: `layers` (inputs, units, weights, parameters), `neuron`, `surrogate`, `readout` (equations with
    numbers, time constants in seconds and steps), `loss`, `per_sample` (spikes and operations at an
    assumed rate), `memory` (bytes that training takes at that rate).
    """
    dt_s = spec.train.dt_s
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
        "neuron": explain_neuron(spec.model.neuron, dt_s, recurrent=spec.model.recurrent),
        "surrogate": explain_surrogate(spec.model.surrogate),
        "readout": explain_readout(spec.model.readout, dt_s),
        "loss": explain_loss(spec.train.activity),
        "per_sample": _per_sample(spec),
        "memory": _memory(spec),
    }


def explain_neuron(spec: NeuronSpec, dt_s: float, *, recurrent: bool) -> dict[str, Any]:
    """Kind, equations and time constants of the hidden units."""
    kind, constants = lif.LIF, lif.parameters_from_spec(spec, dt_s)
    drive = "D[n] = W S_in[n] + V S[n]" if recurrent else "D[n] = W S_in[n]"
    distance = _in_letters(kind, constants)[1]
    return {
        "kind": spec.kind,
        "equations": [drive, *_step_equations(kind, constants, spec.reset)],
        "spike": f"S[n] = 1 where x = {distance} > 0, else 0",
        "reset": _RESETS[spec.reset]
        + ("" if spec.gradient_through_reset else "; the gradient does not go through that"),
        "constants": _numbers(constants),
        "time_constants": _time_constants(spec, dt_s),
    }


def explain_surrogate(spec: SurrogateSpec) -> dict[str, Any]:
    """What the backward pass takes for the derivative of a spike."""
    import sympy

    x = sympy.Symbol("x", real=True)
    derivative = DERIVATIVES[spec.kind](x, _number(spec.slope))
    return {"kind": spec.kind, "slope": spec.slope, "formula": f"dS/dx = {_formula(derivative)}"}


def explain_readout(spec: ReadoutSpec, dt_s: float) -> dict[str, Any]:
    """Equations and time constants of the output units."""
    constants = leaky.Parameters(lif.decay(dt_s, spec.tau_syn_s), lif.decay(dt_s, spec.tau_mem_s))
    steps = _step_equations(leaky.LEAKY, constants, "subtract")
    return {
        "kind": spec.kind,
        "equations": ["D[n] = W S[n]", *steps],
        "logit": f"{spec.reduce} of U[n] over all steps n",
        "constants": _numbers(constants),
        "time_constants": _time_constants(spec, dt_s),
    }


def explain_loss(activity: ActivitySpec) -> list[str]:
    """Terms of the loss; z is a unit's mean number of spikes per sample."""
    terms = ["cross-entropy of softmax(logits) with the class, mean over the batch"]
    if activity.lower_strength:
        terms.append(
            f"{activity.lower_strength:g} * mean over units of max(0, {activity.lower:g} - z)^2"
            ", for every hidden layer"
        )
    if activity.upper_strength:
        terms.append(
            f"{activity.upper_strength:g} * max(0, mean of z over units - {activity.upper:g})^2"
            ", for every hidden layer"
        )
    return terms


def _per_sample(spec: RunSpec) -> dict[str, Any]:
    spikes_of_unit = ASSUMED_RATE_HZ * spec.task.duration_s
    input_spikes = spikes_of_unit * spec.task.n_units
    sizes = layer_sizes(spec)
    spikes = {size.name: spikes_of_unit * size.n_units for size in sizes[:-1]}
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


def _time_constants(spec: NeuronSpec | ReadoutSpec, dt_s: float) -> list[dict[str, Any]]:
    taus = {name: value for name, value in spec.model_dump().items() if name.startswith("tau_")}
    return [
        {"name": name, "seconds": tau, "steps": tau / dt_s, "decay_per_step": lif.decay(dt_s, tau)}
        for name, tau in taus.items()
    ]
