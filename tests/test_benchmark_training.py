"""The benchmark of training steps: what is timed is the same task for all, and a run tells what it found."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import ROOT

BENCHMARKS = ROOT / "benchmarks"
TINY = (3, 12, 10)


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Modules of benchmarks/peers by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(f"peers.{name}")

    return load


def test_case_is_read_and_written_alike(peers: Any) -> None:
    case = peers("contender").Case.parse("64x1000x128")
    assert case == (64, 1000, 128)
    assert str(case) == "64x1000x128"
    assert case.beta == pytest.approx(np.exp(-1e-3 / 20e-3))
    with pytest.raises(ValueError, match="write BATCHxSTEPSxHIDDEN"):
        peers("contender").Case.parse("64x1000")


def test_events_and_dense_batch_hold_the_same_spikes(peers: Any) -> None:
    contender, ours = peers("contender"), peers("snnbench_network")
    case = contender.Case(*TINY)
    data = contender.Data.draw(case)
    dense = data.dense(case)
    batch, _ = ours.csr_batch(case, data)
    assert dense.sum(axis=(0, 2)).tolist() == [contender.SPIKES_PER_SAMPLE] * case.batch
    for step in range(case.steps):
        for sample in range(case.batch):
            row = sample * case.steps + step
            channels = batch.channels[batch.indptr[row] : batch.indptr[row + 1]].numpy()
            counts = np.bincount(channels, minlength=contender.N_INPUTS)
            assert (counts == dense[step, sample]).all()


def test_all_loops_and_ours_compute_the_same_step(peers: Any) -> None:
    """Same weights, same logits and gradients: so no contender of these skips any work."""
    contender, loops, ours = peers("contender"), peers("loop_network"), peers("snnbench_network")
    case = contender.Case(*TINY)
    data = contender.Data.draw(case)
    labels = torch.from_numpy(data.labels)
    dense = torch.from_numpy(data.dense(case))
    batch, _ = ours.csr_batch(case, data)
    network = ours.our_network(case, contender.Options(engine="reference"))
    loop = loops.LoopNetwork(case, "cpu")
    weights = [network.layers[0].weight, network.layers[0].recurrent_weight, network.readout.weight]
    with torch.no_grad():
        loop.w_in *= 3.0  # enough for spikes
        for theirs, our_weight in zip(loop.parameters, weights, strict=True):
            our_weight.copy_(theirs.T)

    def step(run: Any, parameters: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        logits = run()
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return logits, list(torch.autograd.grad(loss, parameters))

    wanted, wanted_grads = step(lambda: network(batch).logits, weights)
    ways = [
        lambda: loop.verbatim(dense.transpose(0, 1))[0],
        lambda: loop.unbound(dense)[0],
        lambda: loop.in_pieces(dense, loop.piece, 5)[0],
    ]
    hidden = loop.unbound(dense)[1]
    assert 0.01 < hidden.mean() < 0.5
    for way in ways:
        logits, grads = step(way, loop.parameters)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-6)
        for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
            torch.testing.assert_close(grad.T, wanted_grad, rtol=1e-3, atol=1e-7)


def test_a_contender_settles_at_the_rate_and_a_step_changes_all_weights(peers: Any) -> None:
    contender, loops = peers("contender"), peers("loop_network")
    case = contender.Case(*TINY)
    data = contender.Data.draw(case)
    network = loops.LoopNetwork(case, "cpu")
    dense = torch.from_numpy(data.dense(case))
    timed = peers("torch_step").torch_contender(
        network.unbound,
        network.parameters,
        dense,
        torch.from_numpy(data.labels),
        input_weight=network.w_in,
    )
    rate = contender.settle_rate(timed)
    assert rate == pytest.approx(contender.HIDDEN_RATE, rel=0.1)
    assert network.unbound(dense)[1].mean().item() == pytest.approx(rate)
    before = [weight.detach().clone() for weight in network.parameters]
    timed.step()
    assert all((w != b).any() for w, b in zip(network.parameters, before, strict=True))


def test_a_recorded_step_of_ours_is_the_step(peers: Any) -> None:
    # on a CPU, where it is passed on and not recorded: that the batch arrives and all weights move
    contender, ours = peers("contender"), peers("snnbench_network")
    case = contender.Case(*TINY)
    data = contender.Data.draw(case)
    batch, _ = ours.csr_batch(case, data)
    after = []
    for graphed in (False, True):
        network = ours.our_network(case, contender.Options(engine="reference"))
        parameters = list(network.parameters())
        before = [p.detach().clone() for p in parameters]
        timed = peers("torch_step").torch_contender(
            lambda batch, network=network: ours.rates_beside_logits(network(batch), case),
            parameters,
            batch,
            torch.from_numpy(data.labels),
            input_weight=network.layers[0].weight,
            graphed=graphed,
        )
        contender.settle_rate(timed)
        timed.step()
        assert all((p != b).any() for p, b in zip(parameters, before, strict=True))
        after.append(parameters)
    assert all(map(torch.equal, *after))


def test_replicas_are_networks_that_train_side_by_side(peers: Any) -> None:
    contender, ours = peers("contender"), peers("snnbench_network")
    case, options = contender.Case(*TINY), contender.Options(engine="reference", replicas=2)
    batch, _ = ours.csr_batch(case, contender.Data.draw(case))
    logits, rates = ours.Replicas(case, options)(batch)
    for replica in range(2):
        alone = ours.our_network(case, options, seed=replica)(batch)
        torch.testing.assert_close(logits[replica * case.batch :][: case.batch], alone.logits)
        torch.testing.assert_close(rates[replica] * case.steps, alone.spike_counts[0])


def test_a_rate_out_of_reach_is_an_error(peers: Any) -> None:
    contender = peers("contender")
    silent = contender.Contender(
        step=lambda: None, rate=lambda: 0.0, scale_inputs=lambda factor: None
    )
    with pytest.raises(ValueError, match=r"stays at 0\.0000, wanted 0\.05"):
        contender.settle_rate(silent)


def test_a_worker_that_cannot_start_says_why(peers: Any) -> None:
    crew, contender = peers("crew"), peers("contender")
    with (
        crew.Worker("loop", "false", threads=1) as worker,
        pytest.raises(crew.WorkerError, match="ended with code 1"),
    ):
        worker.set_up(contender.Case(*TINY), contender.Options())


@pytest.mark.parametrize("after", [0.0, 0.06, float("nan")])
def test_a_network_that_changed_its_rate_does_not_count(after: float, peers: Any) -> None:
    peers("crew")
    training = importlib.import_module("training")
    figures = training.Figures(seconds=(0.1, 0.2), rate_before=0.05, rate_after=0.051)
    assert training.checked(figures) == figures
    error = training.checked(figures._replace(rate_after=after)).error
    assert error.startswith("the hidden rate went from 0.0500")


def test_every_peer_is_pinned(peers: Any) -> None:
    pinned = "".join(path.read_text() for path in (BENCHMARKS / "peers").glob("requirements*.txt"))
    for entry in peers("roster").ROSTER.values():
        if entry.kind == "peer":
            for package in entry.packages:
                assert f"\n{package}==" in pinned


def test_a_run_prints_and_writes_what_it_measured(tmp_path: Any) -> None:
    absent = [name for name in ("norse", "sinabs") if not _installed(name)]
    ran = ["loop, unbind", "ours, reference"]
    out = tmp_path / "figures.json"
    options = ["--case", "4x20x16", "--rounds", "2", "--threads", "1", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "training.py"), *options, "--only", *ran, *absent],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())["cases"]["4x20x16"]
    for name in ran:
        assert len(figures[name]["seconds"]) >= 2
        assert min(figures[name]["seconds"]) > 0
        assert figures[name]["rate_after"] == pytest.approx(0.05, rel=0.1)
        assert f"| {name} |" in done.stdout
    for name in absent:
        assert "not installed: " + name in figures[name]["error"]
        assert "requirements.txt" in done.stdout


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
