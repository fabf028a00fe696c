"""What a sweep searches: ranges, choices, and keys that are asked only under a condition.

A search space maps dotted keys, as `--set` names them, to tables:

    "train.lr" = { low = 1e-4, high = 1e-2, log = true }             a number between, on a log scale
    "model.dropout" = { low = 0.0, high = 0.5, step = 0.1 }          in steps
    "train.patience" = { low = 3, high = 20 }                        a whole number, as both ends are
    "model.surrogate.kind" = { choices = ["superspike", "triangle"] }
    "model.surrogate.slope" = { low = 1.0, high = 100.0, when = { "model.surrogate.kind" = "superspike" } }

A condition names another key and the value, or a list of values, under which this one is asked; several
must all hold. The other key is one with choices, or one that the specification fixes. What is asked only
under a condition is its entry's own value elsewhere.
"""

from __future__ import annotations

import itertools
import json
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from snnbench.errors import UsageError, unknown_name

SearchSpace = Mapping[str, Mapping[str, Any]]
"""Dotted key to {low, high}, with log or step where wanted, or to {choices}; each perhaps with {when}."""

Values = dict[str, Any]
"""Dotted key to value, of the keys whose conditions hold."""


class Space:
    """A search space that has been found right.

    Parameters
    ----------
    where : what errors name: the file, and the table in it.
    tables : the space.
    fixed : value of a dotted key that is not searched; KeyError where there is no such key.

    Raises
    ------
    UsageError
        Names the key: an unknown word in a table, a range that is none, a condition that cannot hold.
    """

    def __init__(self, where: str, tables: SearchSpace, fixed: Callable[[str], Any]) -> None:
        self.tables = tables
        self._distributions = {
            key: distribution_of(f"{where}.{key}", table) for key, table in tables.items()
        }
        self._conditions: dict[str, dict[str, list[Any]]] = {}
        self._never: set[str] = set()
        for key, table in tables.items():
            self._add_condition(f"{where}.{key}.when", key, table.get("when", {}), fixed)
        try:
            # in the order of the tables, but for what a condition needs before
            self.keys = tuple(
                TopologicalSorter({k: list(self._conditions[k]) for k in tables}).static_order()
            )
        except CycleError as error:
            raise UsageError(
                f"{where}: conditions in a circle: {' -> '.join(error.args[1])}"
            ) from None

    def _add_condition(self, where: str, key: str, when: Any, fixed: Callable[[str], Any]) -> None:
        if not isinstance(when, Mapping):
            raise UsageError(f'{where}: needs a table {{ "KEY" = VALUE }}, found {when!r}')
        self._conditions[key] = {}
        for other, value in when.items():
            allowed = value if isinstance(value, list) else [value]
            if other not in self.tables:
                try:
                    found = fixed(other)
                except KeyError:
                    raise unknown_name(
                        "key", f"{where}.{other}", [f"{where}.{k}" for k in self.tables]
                    ) from None
                if found not in allowed:
                    self._never.add(key)
                continue
            choices = self.tables[other].get("choices")
            if choices is None:
                raise UsageError(f"{where}: {other} is a range, and a condition needs choices")
            for one in allowed:
                if one not in choices:
                    raise UsageError(
                        f"{where}: {other} is never {one!r}; its choices are {choices}"
                    )
            self._conditions[key][other] = allowed

    def holds(self, key: str, values: Mapping[str, Any]) -> bool:
        """Whether a key is asked, given the values of those before it."""
        return key not in self._never and all(
            other in values and values[other] in allowed
            for other, allowed in self._conditions[key].items()
        )

    def ask(self, suggest: Callable[[str, Any], Any]) -> Values:
        """Values of all keys that are asked; suggest(key, distribution) gives Optuna's value of one."""
        values: Values = {}
        for key in self.keys:
            if self.holds(key, values):
                values[key] = self.value(key, suggest(key, self._distributions[key]))
        return values

    def value(self, key: str, parameter: Any) -> Any:
        """A key's value from Optuna's parameter, which is never a list."""
        if "choices" not in self.tables[key]:
            return parameter
        return next(c for c in self.tables[key]["choices"] if _label(c) == parameter)

    def parameters(self, values: Values) -> Values:
        """Values as Optuna has them."""
        return {
            key: _label(value) if "choices" in self.tables[key] else value
            for key, value in values.items()
        }

    def grid(self) -> list[Values]:
        """Every combination of values there is, in the order of the tables.

        Raises
        ------
        UsageError
            A range has no steps, so that there is no end of values.
        """
        options = {key: self._options(key) for key in self.keys}

        def complete(values: Values, rest: tuple[str, ...]) -> Iterator[Values]:
            if not rest:
                yield values
                return
            key, *others = rest
            here = options[key] if self.holds(key, values) else [None]
            for value in here:
                asked = {key: value} if self.holds(key, values) else {}
                yield from complete({**values, **asked}, tuple(others))

        return list(complete({}, self.keys))

    def _options(self, key: str) -> list[Any]:
        table = self.tables[key]
        if "choices" in table:
            return list(table["choices"])
        low, high, step = table["low"], table["high"], table.get("step")
        if step is None and not (isinstance(low, int) and isinstance(high, int)):
            raise _no_grid(key, table)
        step = step or 1
        n = round((high - low) / step)
        return [low + i * step for i in range(n + 1)]

    def corners(self) -> Iterator[Values]:
        """Values to try a specification with: all lowest, all highest, and each other option once."""
        ends = {
            key: list(t["choices"]) if "choices" in t else [t["low"], t["high"]]
            for key, t in self.tables.items()
        }
        lowest = {key: values[0] for key, values in ends.items()}
        highest = {key: values[-1] for key, values in ends.items()}
        yield self._asked(lowest)
        yield self._asked(highest)
        for key, values in ends.items():
            if key not in self._never:
                for value in values:
                    yield self._asked({**lowest, **self._needed(key), key: value})

    def _needed(self, key: str) -> Values:
        """Values of others under which a key is asked."""
        return dict(
            itertools.chain.from_iterable(
                [*self._needed(other).items(), (other, allowed[0])]
                for other, allowed in self._conditions[key].items()
            )
        )

    def _asked(self, values: Values) -> Values:
        asked: Values = {}
        for key in self.keys:
            if self.holds(key, asked):
                asked[key] = values[key]
        return asked


def _no_grid(key: str, table: Mapping[str, Any]) -> UsageError:
    return UsageError(
        f"{key}: a grid needs choices, steps or whole numbers, and this is a range from"
        f" {table['low']} to {table['high']} without steps; take --space {key}=A,B,C, --set"
        f" {key}=VALUE, or another --sampler"
    )


def distribution_of(where: str, table: Mapping[str, Any]) -> Any:
    """Optuna's distribution for a table of the search space; integers where all its numbers are."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    known = {"when", *({"choices"} if "choices" in table else {"low", "high", "log", "step"})}
    for key in table.keys() - known:
        raise unknown_name("key", f"{where}.{key}", [f"{where}.{k}" for k in known])
    table = {key: value for key, value in table.items() if key != "when"}
    choices = table.get("choices", ["none needed"])
    if not (isinstance(choices, list) and choices):
        raise UsageError(f"{where}.choices: needs a list of values, found {choices!r}")
    kinds = {type(value) for key, value in table.items() if key != "log"}
    numbers = {"low", "high"} <= table.keys() and kinds <= {int, float}
    if not (numbers or "choices" in table):
        raise UsageError(f"{where}: needs numbers low and high, or choices; found {dict(table)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a step that does not reach high is only warned about
            if not numbers:
                return CategoricalDistribution([_label(choice) for choice in choices])
            return (IntDistribution if kinds == {int} else FloatDistribution)(**table)
    except (TypeError, ValueError, UserWarning) as error:
        raise UsageError(f"{where}: {error}") from None


def _label(choice: Any) -> Any:
    return choice if isinstance(choice, str | int | float) else json.dumps(choice)


def read_search_file(path: Path) -> dict[str, dict[str, Any]]:
    """The [search] table of a TOML file, which holds nothing else.

    Raises
    ------
    UsageError
        It cannot be read, or has another layout.
    """
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as TOML: {error}") from None
    for key in tree.keys() - {"search"}:
        raise unknown_name("key", f"{path}: {key}", [f"{path}: search"])
    search = tree.get("search")
    if not isinstance(search, dict) or not search:
        raise UsageError(f"{path}: needs a table [search], as a model's file has it")
    for key, table in search.items():
        if not isinstance(table, dict) or not table.keys() & {"low", "high", "choices"}:
            raise UsageError(
                f"{path}: search.{key}: needs {{ low, high }} or {{ choices }}, found {table!r}; a dotted"
                ' key stands in quotes: "train.lr" = { low = 1e-4, high = 1e-2 }'
            )
    return search


def parse_space(arguments: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read `--space` arguments.

    >>> parse_space(["train.lr=1e-4:1e-2:log", "train.batch_size=32,64"])
    {'train.lr': {'low': 0.0001, 'high': 0.01, 'log': True}, 'train.batch_size': {'choices': [32, 64]}}

    Raises
    ------
    UsageError
        Not KEY=LOW:HIGH, KEY=LOW:HIGH:log, KEY=LOW:HIGH:STEP or KEY=A,B,C.
    """
    space = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not (equals and key.strip() and text.strip()):
            raise UsageError(
                f"--space {argument!r}: write KEY=LOW:HIGH, KEY=LOW:HIGH:log, KEY=LOW:HIGH:STEP or"
                " KEY=A,B,C, for example train.lr=1e-4:1e-2:log"
            )
        space[key.strip()] = _range(text) or {"choices": _choices(text)}
    return space


def _range(text: str) -> dict[str, Any] | None:
    """LOW:HIGH, with log or a step behind it; None where it is something else."""
    low, *rest = (_value(part) for part in text.split(":"))
    if len(rest) not in (1, 2) or not all(type(n) in (int, float) for n in (low, rest[0])):
        return None
    table = {"low": low, "high": rest[0]}
    if rest[1:] == ["log"]:
        return {**table, "log": True}
    return {**table, "step": rest[1]} if rest[1:] else table


def _choices(text: str) -> list[Any]:
    try:
        return list(
            tomllib.loads(f"values = [{text}]")["values"]
        )  # choices may be lists themselves
    except tomllib.TOMLDecodeError:
        return [_value(part) for part in text.split(",")]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
