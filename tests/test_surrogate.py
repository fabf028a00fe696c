"""Surrogate derivatives: their formulas at points worked out by hand, and the spikes that carry them."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnbench.model_spec import SurrogateSpec
from snnbench.models.surrogate import DERIVATIVES, Surrogate, make_surrogate
from tests.scan_cases import surrogate

KINDS = tuple(DERIVATIVES)


def derivative_at(x: float, kind: str, slope: float) -> float:
    """What the backward pass of a spike at distance `x` multiplies a gradient by."""
    distance = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    surrogate(kind, slope)(distance).sum().backward()
    assert distance.grad is not None
    return float(distance.grad)


def multi_gaussian_by_hand(z: float) -> float:
    """Of Yin et al., with h = 0.15 and widths 1 and 6, normalised to 1 at 0."""

    def shape(z: float) -> float:
        side = sum(math.exp(-((z - m) ** 2) / 72) / 6 for m in (-1, 1))
        return 1.15 * math.exp(-(z**2) / 2) - 0.15 * side

    return shape(z) / shape(0.0)


@pytest.mark.parametrize(
    ("kind", "x", "slope", "expected"),
    [
        ("superspike", 0.5, 10.0, 1 / 36),  # 1 / (1 + 5)^2
        ("superspike", -0.01, 100.0, 1 / 4),
        ("sigmoid", math.log(3) / 4, 4.0, 3 / 4),  # s = 3/4: 4 * 3/4 * 1/4
        ("sigmoid", -math.log(9), 1.0, 4 * 0.1 * 0.9),
        ("triangle", 0.25, 2.0, 0.5),
        ("triangle", -0.75, 2.0, 0.0),
        ("boxcar", 0.24, 2.0, 1.0),  # wide 1 / slope: from -1/4 to 1/4
        ("boxcar", -0.26, 2.0, 0.0),
        ("gaussian", math.sqrt(2) / 5, 5.0, math.exp(-1)),
        ("gaussian", -0.4, 5.0, math.exp(-2)),
        ("multi-gaussian", 0.5, 2.0, multi_gaussian_by_hand(1.0)),
        ("multi-gaussian", -0.6, 5.0, multi_gaussian_by_hand(3.0)),
        ("arctangent", 1 / math.pi, 2.0, 1 / 2),
        ("arctangent", -1.0, 6 / math.pi, 1 / 10),
        ("slayer", 0.5, 2.0, math.exp(-1)),
        ("slayer", -0.5, 4.0, math.exp(-2)),
        ("straight-through", 0.5, 2.0, 1.0),
        ("straight-through", -1e6, 100.0, 1.0),
    ],
)
def test_derivative_at_a_point_worked_out_by_hand(
    kind: str, x: float, slope: float, expected: float
):
    assert derivative_at(x, kind, slope) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slope", [1.0, 100.0])
def test_is_one_at_threshold_whatever_its_slope(kind: str, slope: float):
    assert derivative_at(0.0, kind, slope) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("peak", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("x", [-0.2, 0.0, 0.07])
def test_the_peak_is_a_factor_and_the_value_at_threshold(kind: str, peak: float, x: float):
    spec = SurrogateSpec.model_validate({"kind": kind, "slope": 5.0, "peak": peak})
    shape, scaled = DERIVATIVES[kind], make_surrogate(spec).derivative
    at = torch.tensor(x, dtype=torch.float64)
    assert float(scaled(at, 5.0)) == pytest.approx(peak * float(shape(at, 5.0)), rel=1e-14)
    assert float(scaled(0 * at, 5.0)) == pytest.approx(peak, rel=1e-14)


@pytest.mark.parametrize("peak", [1.0, 0.3])
def test_equal_peaks_are_one_derivative_and_others_are_not(peak: float):
    # kernels are made for a derivative, and for each of them once
    one, same = (make_surrogate(SurrogateSpec(peak=peak, slope=s)).derivative for s in (2.0, 3.0))
    other = make_surrogate(SurrogateSpec(peak=0.7)).derivative
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    # also in another process
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "multi-gaussian"])
@given(x=st.floats(-1e6, 1e6), slope=st.floats(1e-2, 1e3))
def test_is_even_lies_between_zero_and_one_and_never_rises_outwards(
    kind: str, x: float, slope: float
):
    here, farther = derivative_at(x, kind, slope), derivative_at(1.5 * x, kind, slope)
    rounding = 1e-15
    assert 0 <= farther <= here + rounding
    assert here <= 1 + rounding
    assert here == derivative_at(-x, kind, slope)


@given(x=st.floats(-1e6, 1e6), slope=st.floats(1e-2, 1e3))
def test_the_multi_gaussian_is_even_and_slightly_negative_far_away(x: float, slope: float):
    here = derivative_at(x, "multi-gaussian", slope)
    assert here == pytest.approx(derivative_at(-x, "multi-gaussian", slope), abs=1e-15)
    assert -0.06 < here <= 1 + 1e-15
    # from z = 3 on, the side lobes win
    if abs(slope * x) > 3:
        assert here <= 0


@pytest.mark.parametrize(
    ("kind", "area"),
    # of the derivative over all x, times the slope: what the undivided curve rises by
    [
        ("superspike", 2),
        ("sigmoid", 4),
        ("triangle", 1),
        ("boxcar", 1),
        ("gaussian", math.tau**0.5),
        # 1 + h of the one in the middle, less h for each side lobe: s wide, h / s high; over the value at 0
        ("multi-gaussian", math.tau**0.5 * (1 - 0.15) / (1.15 - 0.05 * math.exp(-1 / 72))),
        ("arctangent", 2),
        ("slayer", 2),
    ],
)
def test_area_under_the_derivative(kind: str, area: float):
    slope = 7.0
    x = torch.linspace(-400, 400, 4_000_001, dtype=torch.float64)
    found = torch.trapezoid(torch.as_tensor(DERIVATIVES[kind](x, slope)), x) * slope
    assert float(found) == pytest.approx(area, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_spike_is_where_the_distance_is_above_zero(kind: str):
    x = torch.tensor([[-1.0, -1e-30, -0.0], [0.0, 1e-30, 1.0]])
    spikes = surrogate(kind)(x)
    assert spikes.tolist() == [[0, 0, 0], [0, 1, 1]]
    assert spikes.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_nan_is_no_spike_and_stays_visible_in_the_gradient(kind: str):
    x = torch.tensor([math.nan, 0.0], requires_grad=True)
    spikes = surrogate(kind)(x)
    spikes.sum().backward()
    assert spikes.tolist() == [0, 0]
    assert x.grad is not None
    assert x.grad[1] == 1
    if kind not in ("boxcar", "triangle"):  # these choose, and nan is on neither side
        assert x.grad[0].isnan()


def test_a_spec_names_its_surrogate():
    def derivative(kind: str) -> Callable[..., object]:
        return make_surrogate(SurrogateSpec.model_validate({"kind": kind})).derivative

    assert [derivative(kind) for kind in KINDS] == list(DERIVATIVES.values())
    assert make_surrogate(SurrogateSpec(slope=3.0)) == Surrogate(
        "superspike", DERIVATIVES["superspike"], 3.0
    )


def test_every_kind_that_a_spec_allows_is_there():
    schema = SurrogateSpec.model_json_schema()["properties"]["kind"]["enum"]
    assert set(schema) == set(DERIVATIVES)
