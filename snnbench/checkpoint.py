"""Weights on disk: a safetensors file with the run's spec as JSON in its header. No pickle anywhere.

Safetensors has no checksum of its own, so the header also holds a sha256 over spec and tensors: a flipped
bit is found when the file is read, not trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from snnbench.errors import SnnbenchError
from snnbench.models.network import build
from snnbench.models.network_base import Network
from snnbench.paths import write_bytes
from snnbench.sizes import layer_sizes
from snnbench.spec import RunSpec
from snnbench.spec_base import describe_validation_error

_HEADER = "snnbench"
"""Key in the header of a file, whose value is JSON with the keys spec, extra and sha256."""


_MISSING_AT_MOST = 10_000_000
"""Of so few missing weights, `restore_weights` tells which tensor does not fit."""


class TensorFile(NamedTuple):
    """Content of a safetensors file written here."""

    tensors: dict[str, Tensor]
    spec: RunSpec
    extra: dict[str, Any]
    """Whatever else was written beside the spec, as JSON."""


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], spec: RunSpec, extra: Mapping[str, Any] = {}
) -> None:
    """Write tensors, the spec and JSON values to one file, whole or not at all."""
    # clone: safetensors refuses tensors that share memory
    content = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    words = {"spec": spec.canonical_json(), "extra": json.dumps(extra, sort_keys=True)}
    told = json.dumps({**words, "sha256": _digest(words, content)}, sort_keys=True)
    # safetensors writes several keys in an order of its own; one alone gives the same bytes every time
    write_bytes(path, save(content, {_HEADER: told}))


def load_tensors(path: Path) -> TensorFile:
    """Read what `save_tensors` wrote.

    Raises
    ------
    SnnbenchError
        The file is missing, truncated, no safetensors file, carries no valid spec, or is not what was
        written (a flipped bit).
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise SnnbenchError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise SnnbenchError(
            f"{path}: not a checkpoint: {error}; it needs to be a safetensors file written by snnbench"
        ) from None
    try:
        # files of snnbench 0.1 have the keys spec and extra in the header itself, and no sha256
        words = json.loads(metadata[_HEADER]) if _HEADER in metadata else metadata
        if _HEADER in metadata and _digest(words, tensors) != words["sha256"]:
            raise SnnbenchError(
                f"{path}: is damaged: its content has another sha256 than its header says; take another"
                " copy, or remove it to begin again"
            )
        if "spec" not in words:
            raise SnnbenchError(
                f"{path}: a safetensors file without a run spec in its header; snnbench did not write it"
            )
        spec = RunSpec.model_validate_json(words["spec"])
        return TensorFile(tensors, spec, json.loads(words.get("extra", "{}")))
    except ValidationError as error:
        problem = describe_validation_error(RunSpec, error, "spec")
        raise SnnbenchError(f"{path}: its spec is not one of this version: {problem}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SnnbenchError(f"{path}: its header is damaged: {error!r}") from None


def _digest(words: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 over spec, extra, and names, types, shapes and values of all tensors."""
    names = sorted(tensors)
    shapes = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in names]
    digest = hashlib.sha256(json.dumps([words["spec"], words["extra"], shapes]).encode())
    for name in names:
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_network(path: Path, network: Network, spec: RunSpec) -> None:
    """Write a network's weights with the spec of the run that made them."""
    save_tensors(path, network.state_dict(), spec)


def load_network(path: Path) -> tuple[Network, RunSpec]:
    """The network a checkpoint holds, on the CPU, and its run's spec.

    Raises
    ------
    SnnbenchError
        As `load_tensors`, or weights that do not fit the spec.
    """
    file = load_tensors(path)
    network = build_for_weights(file.spec, file.tensors, path)
    return network, file.spec


def build_for_weights(spec: RunSpec, tensors: Mapping[str, Tensor], path: Path) -> Network:
    """The network of a spec, with these weights out of the file `path`.

    Raises
    ------
    SnnbenchError
        The weights do not fit the spec.
    """
    held = sum(tensor.numel() for tensor in tensors.values())
    asked = sum(size.n_parameters for size in layer_sizes(spec))
    # told before a network is made that no memory may have room for
    if asked > held + _MISSING_AT_MOST:
        raise SnnbenchError(
            f"{path}: its spec asks for {asked:,} weights, but {held:,} are there; the file does not hold"
            " this model"
        )
    network = build_for(spec, torch.Generator())
    restore_weights(network, tensors, path)
    return network


def build_for(spec: RunSpec, generator: torch.Generator) -> Network:
    """A fresh network of the right size for a run."""
    return build(
        spec.model,
        spec.n_channels,
        spec.task.n_classes,
        spec.train.dt_s,
        generator,
        recompute_steps=spec.train.recompute_steps,
        precision=spec.train.precision,
    )


def restore_weights(network: Network, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put tensors into a network; SnnbenchError names the file and the first tensor that does not fit."""
    expected = network.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        found = _describe(tensors.get(name))
        if found != _describe(expected.get(name)):
            raise SnnbenchError(
                f"{path}: tensor {name!r} is {found}, but its spec asks for"
                f" {_describe(expected.get(name))}; the file does not hold this model"
            )
    network.load_state_dict(dict(tensors))


def _describe(tensor: Tensor | None) -> str:
    if tensor is None:
        return "absent"
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
