"""A model's twin: modules of its own, the same weights.

Whoever patches forwards or switches the attention of a module that others run at the same time breaks it for them.
The engine does all of that to a twin: copies of the modules and configurations (a few kilobytes each), which hold the
very tensors of the model that was handed over. Nothing is ever written to that one, so there is nothing to restore.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

from torch import Tensor, nn

from structdecode.backends.transformers.freshness import structure, values
from structdecode.core.errors import ModelError

T = TypeVar("T")

_TRIES = 20
"""Times that a copy is begun anew because another thread, in a forward of its own, changed what was being copied."""


class Borrowed:
    """A model that others own, and the twin that is run in its place. Belongs to one thread.

    Args:
        prepare: what is done to each new twin.

    Attributes:
        twin: in eval mode; made by the first `refresh`.
        epoch: how often the model was found changed; what was computed in an earlier one is stale.
        tower, positioned: the twin's module that sees pictures, and the one that keeps mRoPE deltas, where it has one.
        packed_layers: how many of its linear layers multiply by packed copies.
    """

    def __init__(self, model: Any, prepare: Callable[[nn.Module], None]) -> None:
        self.model, self._prepare = model, prepare
        self.twin: Any = None
        self.epoch = 0
        self.tower: nn.Module | None = None
        self.positioned: Any = None
        self.packed_layers = 0
        self._structure = self._values = b""

    def refresh(self) -> bool:
        """Makes the twin what the model is now; whether that is something else than before: a new epoch begins.

        Raises:
            ModelError: the model's modules cannot be copied.
        """
        if self.twin is not None and not self.restructured() and not self.overwritten():
            return False
        self._structure = _retried(lambda: structure(self.model))
        self.twin = twin(self.model)
        self._values = values(self.twin)
        self._prepare(self.twin)
        self.epoch += 1
        return True

    def restructured(self) -> bool:
        """Whether the model is built, configured or switched otherwise than its twin, which stays as it was."""
        return _retried(lambda: structure(self.model)) != self._structure

    def overwritten(self) -> bool:
        """Whether weights that the twin shares have been written to."""
        return values(self.twin) != self._values


def changed_midway() -> ModelError:
    """What requests fail with whose weights were overwritten before they were done."""
    return ModelError(
        "the model's weights were overwritten while it was writing an answer: update them between searches"
    )


def twin(model: nn.Module) -> nn.Module:
    """Copies of all modules in eval mode, with the same parameters and buffers.

    Raises:
        ModelError: one of them cannot be copied.
    """
    try:
        return _retried(lambda: _copied(model))
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be borrowed: its modules cannot be copied "
            f"({type(error).__name__}: {str(error).strip().split(chr(10))[0]}); load a plain copy of it for decoding"
        ) from error


def _copied(model: nn.Module) -> nn.Module:
    memo: dict[int, Any] = {id(shared): shared for shared in _shared(model)}
    twin = copy.deepcopy(model, memo)
    theirs = {id(module): memo[id(module)] for module in model.modules()}
    for module in twin.modules():
        for name, value in list(vars(module).items()):
            if _wraps(value):  # a forward in place of the module's own
                vars(module)[name] = _rebound(value, theirs)
    return twin.eval()


def _shared(model: nn.Module) -> Iterator[Any]:
    """What is not copied: every tensor, callables (`_rebound` makes those), and where offloaded weights come from."""
    for module in model.modules():
        yield from (value for value in list(vars(module).values()) if _wraps(value))
        yield from _tensors_in(list(vars(module).values()))
        weights = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
        if weights is not None:
            yield weights


def _tensors_in(value: Any, depth: int = 4) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, dict):
        yield from _tensors_in(list(value.values()), depth - 1)
    elif depth and isinstance(value, list | tuple):
        for each in list(value):
            yield from _tensors_in(each, depth - 1)


def _rebound(value: Any, memo: dict[int, Any]) -> Any:
    """The same callable over the twin's modules, wherever it holds on to the model's: wrappers are often closures."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, MethodType):
        return MethodType(_rebound(value.__func__, memo), _rebound(value.__self__, memo))
    if isinstance(value, partial):
        keywords = {name: _rebound(each, memo) for name, each in value.keywords.items()}
        return partial(_rebound(value.func, memo), *(_rebound(each, memo) for each in value.args), **keywords)
    if isinstance(value, FunctionType) and value.__closure__:
        cells = tuple(CellType() for _ in value.__closure__)
        rebound = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        rebound.__kwdefaults__, rebound.__dict__ = value.__kwdefaults__, dict(vars(value))
        memo[id(value)] = rebound
        for cell, theirs in zip(cells, value.__closure__, strict=True):
            with suppress(ValueError):  # an empty cell
                cell.cell_contents = _rebound(theirs.cell_contents, memo)
        return rebound
    if callable(value) and not isinstance(value, type | nn.Module | FunctionType) and hasattr(value, "__dict__"):
        held = {name: _rebound(each, memo) for name, each in vars(value).items()}
        if any(held[name] is not each for name, each in vars(value).items()):
            rebound = object.__new__(type(value))  # not by copy: accelerate's wrapper refuses
            vars(rebound).update(held)
            return rebound
    return value


def _wraps(value: Any) -> bool:
    return isinstance(value, FunctionType | MethodType | partial)


def _retried(look: Callable[[], T]) -> T:
    for left in reversed(range(_TRIES)):
        try:
            return look()
        except RuntimeError as error:
            if not left or "changed size during iteration" not in str(error):
                raise
    raise AssertionError
