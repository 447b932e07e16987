"""A result is what its key says: changed code is another key, in files, notebooks, closures and nested plug-ins."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core import registry
from structdecode.core.plain import digest_of, plain
from structdecode.core.schemas import load_schema
from structdecode.core.types import Schema
from structdecode.evaluation import code
from structdecode.evaluation.cells import CellTemplate, expand
from structdecode.evaluation.identity import model_identity
from structdecode.evaluation.source import entry_of, is_engine
from structdecode.evaluation.source import reached as reached_from
from structdecode.matching import match
from structdecode.records.store import read_run, read_study
from structdecode.strategies.best_of_n import BestOfN
from structdecode.verifiers.agreement import Agreement
from structdecode.verifiers.by_stage import ByStage
from structdecode.verifiers.callable import FunctionVerifier
from structdecode.verifiers.ensemble import Ensemble
from structdecode.verifiers.rule import Rule
from tests import processes


def digest(verifier: Any) -> str:
    """Of a cell with this verifier, which was registered as ``given``."""
    registry.register("verifiers", "given")(verifier)
    return expand([CellTemplate("best-of-n", verifiers=("given",))], [0])[0].digest


def notebook(source: str, name: str = "score") -> Any:
    """What a notebook's cell defines: a module without a file, and no text that `inspect` finds."""
    around: dict[str, Any] = {"__name__": "__main__"}
    exec(textwrap.dedent(source), around)
    return around[name]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Writes a package ``plugged`` and imports it anew."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(**sources: str) -> Any:
        (tmp_path / "plugged").mkdir(exist_ok=True)
        for name, source in {"__init__": "", **sources}.items():
            (tmp_path / f"plugged/{name}.py").write_text(source)
        for name in [name for name in sys.modules if name.startswith("plugged")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        sys.dont_write_bytecode = True
        return importlib.import_module("plugged.main")

    yield load
    for name in [name for name in sys.modules if name.startswith("plugged")]:
        del sys.modules[name]


def test_a_functions_body_is_part_of_the_key(module: Callable[..., Any]) -> None:
    one = digest(module(main="def score(candidate):\n    return 1.0\n").score)
    assert digest(module(main="def score(candidate):\n    return 1.0\n").score) == one
    assert digest(module(main="def score(candidate):\n    return 2.0\n").score) != one


def test_helpers_count_in_the_module_and_in_the_package(module: Callable[..., Any]) -> None:
    main = "from plugged.deep import weigh\n\n\ndef score(candidate):\n    return weigh()\n"
    deep = "from .deeper import X\n\n\ndef weigh():\n    return X\n"
    digests = [
        digest(module(main=main, deep=deep, deeper=deeper, other=other).score)
        for deeper, other in (("X = 1", ""), ("X = 2", ""), ("X = 1", "not = 'imported'"))
    ]
    assert digests[0] == digests[2] != digests[1]


def test_a_class_of_the_same_name_from_another_module_is_another(module: Callable[..., Any]) -> None:
    source = (
        "import dataclasses\n\n\n@dataclasses.dataclass(frozen=True)\nclass Mine:\n    weight: float = 1.0\n\n"
        "    async def score(self, prompt, candidates, model):\n        return []\n"
    )
    one = digest(module(main=source).Mine)
    package = module(main="from plugged.other import Mine\n", other=source)
    assert digest(package.Mine) != one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("score = lambda c: 1.0", "score = lambda c: 2.0"),
        ("def score(c, w=1): return w", "def score(c, w=2): return w"),
        ("def score(c, *, w=1): return w", "def score(c, *, w=2): return w"),
        ("def make(w):\n    return lambda c: w\nscore = make(1)", "def make(w):\n    return lambda c: w\nscore = make(2)"),
        ("def weigh(): return 1\ndef score(c): return weigh()", "def weigh(): return 2\ndef score(c): return weigh()"),
        ("W = 1\ndef score(c): return W", "W = 2\ndef score(c): return W"),
        ("class score:\n    async def score(self, p, cs, m): return 1", "class score:\n    async def score(self, p, cs, m): return 2"),
        ("class score:\n    w = 1\n    async def score(self, p, cs, m): return self.w", "class score:\n    w = 2\n    async def score(self, p, cs, m): return self.w"),
        ("class B:\n    def score(self): return 1\nclass score(B):\n    pass", "class B:\n    def score(self): return 2\nclass score(B):\n    pass"),
        ("import dataclasses\n@dataclasses.dataclass\nclass score:\n    w: int = 1\n    def score(self): return 1", "import dataclasses\n@dataclasses.dataclass\nclass score:\n    w: int = 1\n    def score(self): return 2"),
        ("import functools\nscore = functools.partial(lambda w, c: w, 1)", "import functools\nscore = functools.partial(lambda w, c: w, 2)"),
        ("import functools\n@functools.cache\ndef score(c): return 1", "import functools\n@functools.cache\ndef score(c): return 2"),
    ],
)  # fmt: skip
def test_what_a_notebook_defines_is_part_of_the_key(one: str, other: str) -> None:
    """Twice the same is the same: no address gets in."""

    def wrapped(item: Any) -> Any:
        return item if isinstance(item, type) else FunctionVerifier(item)

    assert digest(wrapped(notebook(one))) == digest(wrapped(notebook(one)))
    assert digest(wrapped(notebook(one))) != digest(wrapped(notebook(other)))


def test_two_lambdas_of_one_name_are_two() -> None:
    members = [{"a": FunctionVerifier(one), "b": FunctionVerifier(other)} for one, other in (
        (notebook("score = lambda c: 1"), notebook("score = lambda c: 2")),
        (notebook("score = lambda c: 2"), notebook("score = lambda c: 1")),
    )]  # fmt: skip
    assert digest(Ensemble(members[0])) != digest(Ensemble(members[1]))
    found = code.code_of(BestOfN(verifier=Ensemble(members[0])), None)
    assert {"strategy", "verifier", "verifier.members.a.function", "verifier.members.b.function"} <= set(found)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda f: Agreement(check=f),
        lambda f: Rule(predicate=f),
        lambda f: ByStage({"caption": Agreement(check=f)}),
        lambda f: Ensemble({"a": ByStage({}, default=Rule(predicate=f))}),
    ],
)
def test_callables_count_wherever_they_are_nested(wrap: Callable[[Any], Any]) -> None:
    one, other = notebook("def score(*a): return 1"), notebook("def score(*a): return 2")
    assert digest(wrap(one)) == digest(wrap(one)) != digest(wrap(other))


class Opaque:
    """No dataclass, and a repr with an address."""

    def __init__(self, weight: float) -> None:
        self.weight, self.more = weight, {"pattern": re.compile("a"), "tags": {"x", "y"}, "me": self}

    async def score(self, *asked: Any) -> list[Any]:
        return []


def test_objects_count_by_what_they_hold_and_not_by_their_address() -> None:
    assert digest(Opaque(1.0)) == digest(Opaque(1.0)) != digest(Opaque(2.0))
    assert "0x" not in json.dumps(plain([Opaque(1.0), print, functools.partial(print, object()), Opaque(1).score]))


def test_plain_tells_values_apart_and_sets_have_no_order() -> None:
    import numpy as np

    values: list[Any] = [
        1,
        "1",
        None,
        b"1",
        {1},
        [1],
        {"a": 1},
        {"a": 2},
        np.ones(1),
        np.zeros(1),
        re.compile("1"),
    ]
    assert len({digest_of(plain(value)) for value in values}) == len(values)
    assert plain({"b", "a", "c"}) == plain({"c", "b", "a"})


def test_a_schemas_contents_count_and_its_file_does_not(tmp_path: Path) -> None:
    def key(path: Path, text: str) -> str:
        path.write_text(f"name: mine\nstages: [{{name: A}}]\ninstruction: '{text} {{question}}'")
        return expand([CellTemplate("staged", schema=str(path))], [0])[0].digest

    assert key(tmp_path / "a.yaml", "Say") == key(tmp_path / "b.yaml", "Say") != key(tmp_path / "a.yaml", "Tell")
    assert load_schema(tmp_path / "a.yaml").name == "mine"


@dataclasses.dataclass(frozen=True)
class Terse(Schema):
    """A schema with code of its own."""


def test_a_schema_of_ones_own_class_is_code() -> None:
    built_in = expand([CellTemplate("staged")], [0])[0]
    assert "schema" not in built_in.code
    terse = Terse("terse", built_in.schema.stages)
    assert code.code_of(built_in.strategy, terse)["schema"]["what"] == f"{__name__}:Terse"


def test_our_own_plug_ins_count_with_what_they_import_and_the_engine_apart() -> None:
    judge = expand([CellTemplate("stage-beam", verifiers=("self-judge",))], [0])[0]
    module = type(judge.strategy.verifier).__module__  # type: ignore[attr-defined]
    reached = reached_from(module, Path(sys.modules[module].__file__ or ""))
    assert {"structdecode.verifiers.prompts", "structdecode.verifiers.tournaments"} <= set(reached), "prompts decide"
    assert not any(name.startswith("structdecode.backends") for name in reached)
    for decides in ("structdecode.core.decoder", "structdecode.backends.transformers.backend", match.__module__):
        assert is_engine(decides), decides
    pages = ("core.view.tree", "core.templating", "evaluation.report.page")
    for shown in ("structdecode.cli.main", *(f"structdecode.{page}" for page in pages)):
        assert not is_engine(shown), shown


def test_an_installed_distribution_counts_by_its_version() -> None:
    found = entry_of(pytest.raises)
    assert found["version"] == f"pytest {pytest.__version__}" and "source" not in found
    held = [pytest.raises(ValueError), pytest.approx(1.0)]
    assert code.code_of_object(held, "verifier.held") == {
        "package pytest": {"what": "pytest", "version": f"pytest {pytest.__version__}"}
    }


def test_another_name_for_the_same_code_is_the_same_code() -> None:
    one = code.code_of(BestOfN(), None)
    registry.register("strategies", "alias-of-best")(BestOfN)
    try:
        assert code.code_of(BestOfN(), None) == one
    finally:
        del registry._registered["strategies", "alias-of-best"]


def test_changes_are_named() -> None:
    one = {"verifier": {"what": "m:f", "source": "1"}, "engine": {"what": "e", "version": "e 1"}}
    other = {"verifier": {"what": "m:f", "source": "2"}, "engine": {"what": "e", "version": "e 2"}}
    assert code.changes(one, one) == []
    assert code.changes(one, other) == [
        "verifier (m:f): its source is another", "engine (e): version e 1 is now e 2",
    ]  # fmt: skip
    assert code.changes({}, {"verifier": one["verifier"]}) == ["verifier (m:f): is new"]
    moved = {**one, "verifier": {**one["verifier"], "what": "other:f"}}
    assert code.changes(one, moved) == ["verifier (other:f): was m:f"]


def test_a_models_identity_is_all_that_its_answers_come_from(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Loaded:
        name: str

    def identity() -> str:
        return str(model_identity(Loaded(str(tmp_path)), "m")["digest"])

    seen = {identity()}
    for file in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "modeling.py"):
        (tmp_path / file).write_text("one")
        seen.add(identity())
        (tmp_path / file).write_text("two")
        seen.add(identity())
    assert len(seen) == 11
    (tmp_path / "README.md").write_text("words")
    assert identity() in seen


def test_scripted_backends_of_one_name_are_two_models() -> None:
    one, again, other = (
        ScriptedBackend(notebook(f"score = lambda *a: '{text}'")) for text in ("yes", "yes", "no")
    )  # fmt: skip
    digests = [model_identity(backend, "scripted")["digest"] for backend in (one, again, other)]
    assert digests[0] == digests[1] != digests[2]


# ------------------------------------------------------------------ as a user runs it

PLUGIN = """\
import sys

import structdecode as sd
from structdecode.cli.main import main


@sd.verifier("mine")
def mine(candidate):
    return {value}


main()
"""
ASKED = ("--data", "pocket:test", "--limit", 3, "--strategy", "best-of-n", "--verifier", "mine", "--set", "n=2")
ASKED += ("--set", "max_tokens=30")


def plugged(folder: Path, value: str, *arguments: object, exits: int = 0) -> str:
    """The command with a verifier of one's own, as a script that is edited between runs."""
    script = folder / "mine.py"
    script.write_text(PLUGIN.format(value=value))
    done = processes.run(*arguments, program=str(script))
    assert done.returncode == exits, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_changed_verifier_is_refused_by_name_until_accepted(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "3 of 3 done (3 now" in plugged(tmp_path, "1.0", "compare", *ASKED, "--out", out)
    assert "3 of 3 done (0 now" in plugged(tmp_path, "1.0", "compare", *ASKED, "--out", out)
    said = plugged(tmp_path, "2.0", "compare", *ASKED, "--out", out, exits=2)
    assert "verifier.function 'mine' (__main__:mine): its source is another" in said and said.count("\n") == 1
    assert "--accept-changed-code" in said and "another --out" in said
    scores = {value for record in read_run(out).records for each in record.rounds for value in each.values}
    assert scores == {1.0}, "nothing was mixed"

    records = out / "records.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:2]))
    assert "3 of 3 done (1 now" in plugged(tmp_path, "2.0", "compare", *ASKED, "--out", out, "--accept-changed-code")
    assert "3 of 3 done (0 now" in plugged(tmp_path, "2.0", "compare", *ASKED, "--out", out)
    (accepted,) = read_study(out)["accepted_code"]
    assert "'mine'" in accepted["changed"][0]
    assert "The code changed while this run was made" in (out / "report.md").read_text()
    assert "its source is another" in (out / "tables.json").read_text()
    assert "is another" in plugged(tmp_path, "3.0", "compare", *ASKED, "--out", out, exits=2)


def test_shards_of_different_code_do_not_merge_until_accepted(tmp_path: Path) -> None:
    for part, value in ((1, "1.0"), (2, "2.0")):
        plugged(tmp_path, value, "compare", *ASKED, "--shard", f"{part}/2", "--out", tmp_path / f"s{part}")
    both = ("merge", tmp_path / "s1", tmp_path / "s2", "--out", tmp_path / "all")
    said = plugged(tmp_path, "2.0", *both, exits=1)
    assert "made by different code: verifier.function 'mine'" in said and said.count("\n") == 1
    plugged(tmp_path, "2.0", *both, "--accept-changed-code")
    assert len(read_run(tmp_path / "all").records) == 3
    assert len(read_study(tmp_path / "all")["accepted_code"]) == 1
    assert "3 of 3 done (0 now" in plugged(tmp_path, "2.0", "compare", *ASKED, "--out", tmp_path / "all")


def test_a_directory_of_an_earlier_version_is_one_clear_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    plugged(tmp_path, "1.0", "compare", *ASKED, "--out", out)
    study = read_study(out)
    study["config"]["record_version"] = 1
    for cell in study["config"]["cells"]:
        for new in ("code", "width", "independent", "baseline"):
            del cell[new]
    (out / "study.json").write_text(json.dumps(study))
    said = plugged(tmp_path, "1.0", "compare", *ASKED, "--out", out, exits=2)
    assert "earlier version" in said and "another --out" in said and said.count("\n") == 1
    plugged(tmp_path, "1.0", "report", out)
