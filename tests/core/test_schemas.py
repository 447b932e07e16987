from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import structdecode as sd
from structdecode.core.budget import Budget, Meter, Usage
from structdecode.core.errors import BudgetSpent, ConfigError, PromptError, SchemaError
from structdecode.core.schemas import load_schema
from structdecode.core.types import Candidate, Prompt, Sampling, Schema, Score, Span, Stage, rank

GIVEN = {
    "name": "two",
    "instruction": "Think. {question}",
    "force_begin": False,
    "stages": [
        {"name": "PLAN", "visible": False, "sampling": {"temperature": 0.3, "max_tokens": 50}},
        {"name": "END", "begin": "[", "end": "]"},
    ],
}


@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_schema_from_a_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"schema.{kind}"
    path.write_text(yaml.safe_dump(GIVEN) if kind == "yaml" else json.dumps(GIVEN))
    schema = load_schema(path)
    assert schema == Schema(
        "two",
        (Stage("PLAN", "<PLAN>", "</PLAN>", Sampling(0.3, max_tokens=50), visible=False), Stage("END", "[", "]")),
        "Think. {question}",
        force_begin=False,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": []}, "has no stages"), ({"stages": "PLAN"}, "stages is 'PLAN': a list of"), ({"stages": ["PLAN"]}, r"stages\[0\] is 'PLAN': a mapping"),
        ({"stages": [{"begin": "<A>"}]}, r"stages\[0\].name is missing"), ({"stages": [{"name": "A"}, {"name": "A"}]}, "used twice"),
        ({"stages": [{"name": "A", "colour": 1}]}, r"unknown key of a mapping in .*schema.json: stages\[0\] 'colour'"), ({"stage": []}, "did you mean 'stages'"),
        ({"stages": [{"name": "A", "visible": "no"}]}, r"stages\[0\].visible is 'no': bool is wanted"), ({"instruction": "Hi"}, "lacks"),
        ({"stages": [{"name": "A", "sampling": {"temperature": "hot"}}]}, r"stages\[0\].sampling.temperature is 'hot': float is wanted"),
        ({"stages": [{"name": "A", "sampling": {"top_p": 2}}]}, "top_p"),
        ({"stages": [{"name": "A", "begin": "<A", "end": "<A>"}]}, "is part of"),
        ({"stages": [{"name": "A", "begin": "x", "end": ""}, {"name": "B"}]}, "not the last"),
        ({"whole": False}, "unknown key of a schema in .*schema.json 'whole'"),
    ],
)  # fmt: skip
def test_bad_schemas_say_what_and_where(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({**GIVEN, **change}))
    with pytest.raises(sd.StructdecodeError, match=message):
        load_schema(path)


def test_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "schema.yaml"
    for text in ("a: [", "just text"):
        path.write_text(text)
        with pytest.raises(SchemaError, match=r"schema\.yaml"):
            load_schema(path)
    with pytest.raises(SchemaError, match="No such file"):
        load_schema(tmp_path / "none.yaml")


def test_empty_questions_are_refused() -> None:
    for question in ("", "  \n"):
        with pytest.raises(PromptError, match="empty"):
            Prompt(question)


@given(st.lists(st.tuples(st.booleans(), st.none() | st.floats(-5, 5)), max_size=12))
def test_ranking(rows: list[tuple[bool, float | None]]) -> None:
    candidates = [
        Candidate((Span("A", str(i), finish_reason="stop" if valid else "invalid"),), (i,))
        for i, (valid, _) in enumerate(rows)
    ]
    ranked = rank(candidates, [Score(value) for _, value in rows])
    keys = [(r.candidate.valid, r.score.scored, r.score.value or 0.0) for r in ranked]
    assert keys == sorted(keys, key=lambda k: (not k[0], not k[1], -k[2] if k[1] else 0))
    assert {r.candidate.path for r in ranked} == {c.path for c in candidates}


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30), st.floats(0, 1)), max_size=8))
def test_reservations_never_add_up_to_more_than_the_budget(tokens: int, calls: list[tuple[int, int, float]]) -> None:
    meter, open_ = Meter(Budget(tokens=tokens)), []
    with ExitStack() as still_open:
        for rows, wanted, share in calls:
            entered = ExitStack()
            try:
                call = entered.enter_context(meter.call("generator", rows, wanted))
            except BudgetSpent:
                assert meter.stopped_by == "tokens"
                break
            reserved = sum(call.limits)
            assert max(call.limits) - min(call.limits) <= 1 and max(call.limits) <= wanted
            assert meter.usage.generated_tokens + sum(open_) + reserved <= tokens
            call.charge(Usage(generated_tokens=int(reserved * share)))
            assert meter.remaining.tokens == tokens - meter.usage.generated_tokens - sum(open_) - reserved + int(
                reserved * share
            )
            if share < 0.7:
                entered.close()
            else:
                open_.append(reserved - int(reserved * share))
                still_open.push(entered)
    assert meter.usage.generated_tokens <= tokens
    assert meter.remaining.tokens == tokens - meter.usage.generated_tokens, "what was not used is free again"


def test_budget_texts() -> None:
    assert Budget.parse("tokens=5, seconds=1.5") == Budget(tokens=5, seconds=1.5)
    assert Budget.parse("") == Budget()
    for text, message in (
        ("token=5", "did you mean 'tokens'"),
        ("tokens=many", "must be a number"),
        ("tokens=-1", "0 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            Budget.parse(text)
