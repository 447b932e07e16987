"""Lets torchvision be imported beside a build of torch that its compiled half does not fit.

Half of transformers' image processors need torchvision, for its transforms, which are plain torch. PyPI's wheel beside
a CPU build of torch cannot load its operators (nms, roi_align); its ``_meta_registrations`` describes them to torch
all the same and so ends the import with a RuntimeError, and with it that of transformers' `AutoProcessor`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_NEEDS_OPERATORS = "torchvision._meta_registrations"


class WithoutOperators(MetaPathFinder, Loader):
    """Finds an empty module in place of the one that describes operators, if they are not there; else nothing."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _NEEDS_OPERATORS:
            return None
        loaded = getattr(sys.modules.get("torchvision.extension"), "_has_ops", lambda: True)()
        return None if loaded else ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        pass


def tolerate_missing_operators() -> None:
    """From now on ``import torchvision`` works without its operators; where they are there it is as ever."""
    if not any(isinstance(finder, WithoutOperators) for finder in sys.meta_path):
        sys.meta_path.insert(0, WithoutOperators())
