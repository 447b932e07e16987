"""A model's twin: modules of its own, the same weights.

Whoever patches forwards or switches the attention of a module that others run at the same time breaks it for them.
The engine does all of that to a twin: copies of the modules and configurations (a few kilobytes each), which hold the
very tensors of the model that was handed over. Nothing is ever written to that one, so there is nothing to restore.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from types import CellType, FunctionType, MethodType
from typing import Any, TypeVar

from torch import Tensor, nn

from structdecode.backends.transformers.freshness import structure, values
from structdecode.errors import ModelError

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
    """

    def __init__(self, model: Any, prepare: Callable[[nn.Module], None]) -> None:
        self.model, self._prepare = model, prepare
        self.twin: Any = None
        self.epoch = 0
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
        """Whether the model is built, configured or switched otherwise than its twin, which goes on as it was."""
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
    for module in twin.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, FunctionType):  # a forward that was put in place of the module's own
                vars(module)[name] = _rebound(value, memo)
    return twin.eval()


def _shared(model: nn.Module) -> Iterator[Any]:
    """What both have: every tensor, and where offloaded weights come from."""
    for module in model.modules():
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


def _rebound(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    """The same function over the twin's modules, where it holds on to modules (or methods) of the model."""
    cells = function.__closure__
    if not cells:
        return function
    held = [cell.cell_contents for cell in cells]
    theirs = [
        MethodType(each.__func__, memo.get(id(each.__self__), each.__self__)) if isinstance(each, MethodType)
        else memo.get(id(each), each) if isinstance(each, nn.Module) else each
        for each in held
    ]  # fmt: skip
    rebound = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__,
        tuple(CellType(each) for each in theirs),
    )  # fmt: skip
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


def _retried(look: Callable[[], T]) -> T:
    for left in reversed(range(_TRIES)):
        try:
            return look()
        except RuntimeError as error:
            if not left or "changed size during iteration" not in str(error):
                raise
    raise AssertionError
