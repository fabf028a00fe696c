"""Checkpoints keep weights and spec exactly, and anything else is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from snnbench.checkpoint import build_for, load_network, save_network, save_tensors
from snnbench.errors import SnnbenchError
from tests.toy_spikes import toy_spec

SPEC = toy_spec("rec-lif", model__hidden=[7, 5])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_network(path, build_for(SPEC, torch.Generator().manual_seed(1)), SPEC)
    return path


def test_round_trip(checkpoint: Path):
    network, spec = load_network(checkpoint)
    assert spec == SPEC
    expected = build_for(SPEC, torch.Generator().manual_seed(1)).state_dict()
    assert network.state_dict().keys() == expected.keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_same_network_same_bytes(checkpoint: Path, tmp_path: Path):
    network, spec = load_network(checkpoint)
    save_network(tmp_path / "again.safetensors", network, spec)
    assert (tmp_path / "again.safetensors").read_bytes() == checkpoint.read_bytes()


def refused(path: Path) -> str:
    with pytest.raises(SnnbenchError) as caught:
        load_network(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_missing_file(tmp_path: Path):
    assert "no such checkpoint" in refused(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello, not a checkpoint", b"\x80\x04pickle" * 40])
def test_not_safetensors(tmp_path: Path, content: bytes):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert "not a checkpoint" in refused(path)


@pytest.mark.parametrize("keep", [4, 100, -1])
def test_truncated(checkpoint: Path, keep: int):
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    assert "not a checkpoint" in refused(checkpoint)


def test_a_folder(tmp_path: Path):
    refused(tmp_path)


def test_without_a_spec(tmp_path: Path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    assert "without a run spec" in refused(path)


def test_a_spec_with_an_unknown_key(tmp_path: Path):
    path = tmp_path / "other.safetensors"
    text = SPEC.canonical_json().replace('"lr":', '"learning_rate":')
    save_file({"weight": torch.zeros(3)}, path, {"spec": text, "extra": "{}"})
    assert "learning_rate" in refused(path)


@pytest.mark.parametrize("change", ["shape", "missing", "extra", "dtype"])
def test_weights_that_do_not_fit_the_spec(tmp_path: Path, change: str):
    tensors = build_for(SPEC, torch.Generator()).state_dict()
    name = "layers.1.recurrent_weight"
    match change:
        case "shape":
            tensors[name] = tensors[name][:, :3]
        case "missing":
            del tensors[name]
        case "extra":
            name = "layers.9.weight"
            tensors[name] = torch.zeros(2)
        case "dtype":
            tensors[name] = tensors[name].double()
    path = tmp_path / "model.safetensors"
    save_tensors(path, tensors, SPEC)
    assert repr(name) in refused(path)
