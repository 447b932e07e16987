"""Templates of a package, for the pages that are made of what others wrote: everything is escaped unless it is `Markup`."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup


@cache
def environment(package: str) -> Environment:
    """Jinja's environment of a package's folder ``templates``; a name that a template is not given is an error."""
    made = Environment(
        loader=PackageLoader(package), autoescape=select_autoescape(), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return made


def render(package: str, template: str, **context: Any) -> Markup:
    """A template of HTML with this context in it."""
    return Markup(environment(package).get_template(template).render(context))


def source(package: str, name: str) -> Markup:
    """A style sheet or a script of ours, character by character: a page's policy names the script by its digest."""
    made = environment(package)
    assert made.loader is not None
    return Markup(made.loader.get_source(made, name)[0])
