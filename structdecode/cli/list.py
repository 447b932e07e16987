"""``structdecode list``."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Annotated, Any

import typer

from structdecode.cli import options


def list_(
    group: Annotated[
        str | None, typer.Argument(help="strategies, verifiers, backends or schemas; default: all.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what there is, plug-ins of other packages included.

    Example: `structdecode list verifiers`
    """
    from structdecode.core import registry
    from structdecode.core.errors import UnknownNameError

    if group is not None and group not in registry.GROUPS:
        raise UnknownNameError("group", group, registry.GROUPS)
    found: dict[str, dict[str, Any]] = {}
    for each in registry.GROUPS:
        if group is None or group == each:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found[each] = {name: _describe(item) for name, item in registry.load_all(each).items()}
            for warning in caught:
                print(f"warning: {warning.message}", file=sys.stderr)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    for heading, items in found.items():
        print(f"{heading}:")
        for name, about in items.items():
            print(f"  {name:18} {about['summary']}")
            if about["settings"]:
                print(f"  {'':18} --set {' '.join(f'{k}={v}' for k, v in about['settings'].items())}")


def _describe(item: Any) -> dict[str, Any]:
    import dataclasses
    import inspect

    doc = inspect.getdoc(item) if inspect.isclass(item) or inspect.isfunction(item) else ""
    stages = getattr(item, "stages", None)
    summary = (doc or "").split("\n")[0] or ", ".join(stage.name for stage in stages or ())
    settings = {}
    if inspect.isclass(item) and dataclasses.is_dataclass(item):
        for field in dataclasses.fields(item):
            if (
                field.init
                and field.default is not dataclasses.MISSING
                and isinstance(field.default, str | int | float | type(None))
            ):
                settings[field.name] = "..." if "\n" in str(field.default) else field.default
    return {"summary": summary, "settings": settings}
