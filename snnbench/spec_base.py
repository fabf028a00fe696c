"""What all specifications have in common: frozen, strict about keys, one digest; and how errors are told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError

from snnbench.errors import UsageError, unknown_name

Model = TypeVar("Model", bound=BaseModel)


class Spec(BaseModel):
    """Base of all specs: immutable, strict about its keys, with a digest over canonical JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical_json(self) -> str:
        """JSON of what differs from the defaults, with sorted keys and no spaces.

        Equal specs give equal text. A key that a later version adds, with a default that means
        "as before", changes no digest; therefore a default never changes.
        """
        kept = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(kept, sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """Hex sha256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def by_kind(default: str) -> Any:
    """Tells a union's specifications apart by their `kind`, in a mapping or an instance; without one,
    `default`.
    """

    def tell(value: Any) -> Any:
        if isinstance(value, dict):
            return value.get("kind", default)
        return getattr(value, "kind", default)

    return Discriminator(tell)


def with_overrides(tree: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested mapping with dotted keys set; unknown keys are left to validation."""
    result: dict[str, Any] = json.loads(json.dumps(tree))
    for key, value in overrides.items():
        *parents, leaf = key.split(".")
        node = result
        for depth, part in enumerate(parents):
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise UsageError(f"{key}: {'.'.join(parents[: depth + 1])} has no keys of its own")
            node = child
        node[leaf] = deepcopy(value)  # a later key may reach into it
    return result


def for_kinds_of(declared: Any, own: Any, changed: Any) -> Any:
    """`own`, a tree of keys, without those that go with a kind that `changed` has no more.

    Where a part's `kind` differs between the two trees, keys that the new kind does not have are left out;
    an unknown key of an unchanged kind stays, for validation to find. So who changes an entry's kind need
    not know which keys the entry sets.

    Parameters
    ----------
    declared
        What the tree is declared to be: a specification, or a union of kinds.
    own, changed
        An entry's own keys, and the same with the user's set.
    """
    if not (isinstance(own, dict) and isinstance(changed, dict)):
        return own
    kinds = _branches(declared)
    if kinds and "kind" in changed:
        declared = kinds.get(changed["kind"])
        known = _fields_of(declared)
        if known and own.get("kind") != changed["kind"]:
            own = {key: value for key, value in own.items() if key in known}
    elif kinds:
        # the default is the first by convention, see the unions of snnbench.model_spec
        declared = next(iter(kinds.values()))
    return {
        key: for_kinds_of(_walk(declared, [key])[1], value, changed.get(key))
        for key, value in own.items()
    }


def validated(kind: type[Model], data: Any, where: str) -> Model:
    """`kind` made from `data`, or an error naming the key's path and what was found there."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise UsageError(describe_validation_error(kind, error, where)) from None


def describe_validation_error(kind: type[BaseModel], error: ValidationError, where: str) -> str:
    """One line per problem: dotted path, what is wrong, what was found, near names."""
    lines = []
    # a file stands before its keys, and other places are a part of theirs
    file, root = (f"{where}: ", []) if where.endswith(".toml") else ("", [where] if where else [])
    for problem in error.errors():
        *parents, _ = problem["loc"] or ("",)
        keys, found_in = _walk(kind, problem["loc"])
        path = ".".join([*root, *keys])
        if problem["type"] == "extra_forbidden":
            known = _fields_of(_walk(kind, parents)[1])
            near = [".".join([*root, *keys[:-1], k]) for k in known]
            lines.append(str(unknown_name("key", path, near)))
        elif problem["type"] == "union_tag_invalid":
            kinds = list(_branches(found_in))
            lines.append(f"{path}: {unknown_name('kind', problem['ctx']['tag'], kinds)}")
        elif problem["type"] == "literal_error" and isinstance(problem["input"], str):
            names = [str(choice) for choice in get_args(found_in)]
            lines.append(f"{path}: {unknown_name(keys[-1], problem['input'], names)}")
        elif problem["type"] == "value_error":
            lines.append(f"{path}: {problem['ctx']['error']}")
        elif problem["type"] == "tuple_type":
            lines.append(f"{path}: needs values in square brackets, found {problem['input']!r}")
        elif problem["type"] == "too_short":
            least = problem["ctx"]["min_length"]
            lines.append(
                f"{path}: needs at least {least} of its values, found {problem['input']!r}"
            )
        elif problem["type"] == "model_type":
            lines.append(
                f"{path}: has keys of its own, such as {path}.{_fields_of(found_in)[0]}; found"
                f" {problem['input']!r}"
            )
        elif problem["type"] == "missing":
            lines.append(f"{path}: is missing")
        else:
            lines.append(f"{path}: {problem['msg'].lower()}, found {problem['input']!r}")
    # where a file as a whole is wrong there is no key
    return "\n".join(file + line.removeprefix(": ") for line in lines)


def _walk(kind: type[BaseModel], loc: Iterable[Any]) -> tuple[list[str], Any]:
    """Keys of a place in a specification, without the names of a union's branches; what is declared there."""
    keys: list[str] = []
    declared: Any = kind
    for part in loc:
        if part in (branches := _branches(declared)):
            declared = branches[part]
            continue
        keys.append(str(part))
        if isinstance(declared, type) and issubclass(declared, BaseModel):
            field = declared.model_fields.get(str(part))
            declared = field.annotation if field else None
            some = [a for a in get_args(declared) if a is not NoneType]
            if len(some) == 1 and get_origin(declared) is not Literal:
                [declared] = some  # `Model | None`
                if get_origin(declared) is Annotated:  # a union of kinds, or None
                    declared = get_args(declared)[0]
    return keys, declared


def _branches(declared: Any) -> dict[Any, Any]:
    """The branches of a union of kinds, by what names them."""
    if get_origin(declared) not in (Union, UnionType):
        return {}
    found: dict[Any, Any] = {}
    for branch in get_args(declared):
        kind, *notes = get_args(branch) or (branch,)
        found |= {note.tag: kind for note in notes if isinstance(note, Tag)}
    return found


def _fields_of(declared: Any) -> list[str]:
    is_model = isinstance(declared, type) and issubclass(declared, BaseModel)
    return list(declared.model_fields) if is_model else []
