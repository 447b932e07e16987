"""From a harness's flat arguments to a search, and from a search's result to a harness's counts. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from structdecode.core import registry
from structdecode.core.assembly import make_strategy
from structdecode.core.budget import Budget
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.lookup import find_schema, load_backend
from structdecode.core.presets import load_preset
from structdecode.core.protocols import Backend, Strategy
from structdecode.core.results import Result
from structdecode.core.settings import field_types
from structdecode.core.types import Schema, Stage

POCKET = "pocket"
"""The name of the embedded model, where a harness wants a name."""

_OWN = ("pretrained", "schema", "preset", "strategy", "verifier", "seed", "concurrency")
_BACKEND = ("backend", "device", "dtype", "engine", "trust_remote_code", "allow_pickle")
_BUDGET = tuple(f"budget.{f.name}" for f in fields(Budget))


@dataclass(frozen=True)
class Search:
    """All that decides an answer, but for the question.

    Attributes:
        backend_options: of `load_backend`. concurrency: questions in flight at once; no answer depends on it.
    """

    pretrained: str
    strategy: Strategy
    schema: Schema
    budget: Budget
    seed: int
    concurrency: int
    backend_options: Mapping[str, Any]

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Search:
        """Reads arguments as harnesses give them: one flat mapping of texts, numbers and truth values.

        Keys are ``pretrained`` (checkpoint, hub name or ``pocket``), ``schema``, ``preset``, ``strategy``, ``verifier``,
        ``seed``, ``concurrency``, ``backend``, ``device``, ``dtype``, ``engine``, ``trust_remote_code``, ``allow_pickle``,
        ``budget.tokens`` and the like, ``verifier.`` + a verifier's setting, and the strategy's own settings.

        Raises:
            ConfigError: a key is unknown (the message lists the known ones), or a value wrong.
        """
        _check_keys(arguments)
        strategy_keys = [key for key in arguments if key not in (*_OWN, *_BACKEND, *_BUDGET)]
        settings = [f"{key}={_text(arguments[key])}" for key in strategy_keys]
        names = {key: _name(arguments, key) for key in ("strategy", "verifier", "preset", "schema")}
        strategy, _, _ = make_strategy(names["strategy"], names["verifier"], settings, names["preset"])
        limits = ",".join(f"{k.removeprefix('budget.')}={_text(arguments[k])}" for k in _BUDGET if k in arguments)
        seed, concurrency = _whole(arguments, "seed", 0), _whole(arguments, "concurrency", 32)
        if concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, not {concurrency}")
        options = {key: arguments[key] for key in _BACKEND if arguments.get(key) is not None}
        for key in ("trust_remote_code", "allow_pickle"):
            if not isinstance(options.get(key, False), bool):
                raise ConfigError(f"{key} must be true or false, not {options[key]!r}")
        schema = find_schema(names["schema"] or str(getattr(strategy, "default_schema", "llava-o1")))
        pretrained = _name(arguments, "pretrained") or POCKET
        return cls(pretrained, strategy, schema, Budget.parse(limits), seed, concurrency, options)

    def load_backend(self) -> Backend:
        """Loads the model; ``pocket`` needs no download."""
        return load_backend(None if self.pretrained == POCKET else self.pretrained, **self.backend_options)


def with_generation_arguments(schema: Schema, given: Mapping[str, Any]) -> Schema:
    """A schema with a task's ``gen_kwargs`` in its stages, where they make sense for a search.

    - ``max_new_tokens`` (or ``max_gen_toks``) is meant for what the harness gets to see: it lowers the limit of the
      visible stages. Reasoning that stays hidden keeps the schema's own.
    - ``temperature`` above 0, with ``top_p`` and ``top_k``, replaces the stages' sampling. Temperature 0 is what most
      tasks write without a thought of search; N greedy candidates are N times the same one, so it is left aside.
    - What the model arguments say (``temperature=0``, ``max_tokens=...``) goes before all of this, since a strategy's
      settings go before a stage's. Beams, penalties and the rest are the strategy's business, and left aside.

    Raises:
        ConfigError: a value is not a number or out of range.
    """
    limit = _number(given, "max_new_tokens", _number(given, "max_gen_toks"))
    if limit is not None and (limit < 1 or not limit.is_integer()):
        raise ConfigError(f"max_new_tokens must be a whole number of at least 1, not {limit:g}")
    temperature = _number(given, "temperature") or 0.0
    drawn: dict[str, Any] = {}
    if temperature > 0:
        drawn["temperature"] = temperature
        if (top_p := _number(given, "top_p")) is not None:
            drawn["top_p"] = top_p
        if (top_k := _number(given, "top_k")) is not None:
            drawn["top_k"] = max(0, int(top_k))  # some servers write -1 for off

    def changed(stage: Stage) -> Stage:
        sampling = replace(stage.sampling, **drawn)
        if limit is not None and stage.visible:
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, int(limit)))
        return replace(stage, sampling=sampling)

    return replace(schema, stages=tuple(changed(stage) for stage in schema.stages))


def cut_at(text: str, until: str | Sequence[str] | None) -> str:
    r"""The answer up to the first of a task's ``until`` texts. The tokens behind it were paid and stay counted.

    >>> cut_at("4\n\nQuestion: and now?", ["\n\n", ""])
    '4'
    """
    stops = [until] if isinstance(until, str) else list(until or ())
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places)].strip() if places else text


def token_counts(result: Result) -> dict[str, int]:
    """What the whole search cost: every candidate, kept or not, and all of the verifier's work.

    ``input_tokens`` are prompt tokens that were computed; those found in the KV cache cost nothing and are left out.
    """
    return {"input_tokens": result.usage.prefilled_tokens, "output_tokens": result.usage.generated_tokens}


# ------------------------------------------------------------------ reading values


def _check_keys(arguments: Mapping[str, Any]) -> None:
    preset = _name(arguments, "preset")
    name = _name(arguments, "strategy") or (load_preset(preset).strategy if preset else "stage-beam")
    known = [*_OWN, *_BACKEND, *_BUDGET, *field_types(registry.load("strategies", name))]
    for key in arguments:
        if key not in known and not key.startswith("verifier."):
            raise UnknownNameError("model argument", key, known)


def _name(arguments: Mapping[str, Any], key: str) -> str | None:
    value = arguments.get(key)
    if value is not None and not (isinstance(value, str) and value):
        raise ConfigError(f"{key} must be a name, not {value!r}")
    return value


def _whole(arguments: Mapping[str, Any], key: str, default: int) -> int:
    value = _number(arguments, key)
    if value is not None and not value.is_integer():
        raise ConfigError(f"{key} must be a whole number, not {value:g}")
    return default if value is None else int(value)


def _number(given: Mapping[str, Any], key: str, default: float | None = None) -> float | None:
    """A finite number, given as one or as text; None counts as not given."""
    value = given.get(key)
    if value is None:
        return default
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{key} must be a number, not {value!r}")
    return number


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
