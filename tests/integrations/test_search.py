"""From flat arguments to a search, from a task's settings to a schema, from a result to counts: no harness needed."""

from __future__ import annotations

from typing import Any

import pytest

from structdecode import Prompt, decode
from structdecode.backends.scripted import ScriptedBackend
from structdecode.core.budget import Budget
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.lookup import load_backend
from structdecode.core.schemas import COT, LLAVA_O1
from structdecode.integrations.search import Search, cut_at, token_counts, with_generation_arguments
from structdecode.strategies.best_of_n import BestOfN
from structdecode.strategies.stage_beam import StageBeam
from structdecode.strategies.staged import Staged
from structdecode.testing import scripted
from structdecode.verifiers.log_prob import LogProb
from structdecode.verifiers.self_judge import SelfJudge


def test_arguments_become_a_search() -> None:
    search = Search.from_arguments(
        {
            "pretrained": "some/model", "strategy": "stage-beam", "verifier": "self-judge", "candidates": 3, "beams": "2",
            "temperature": 0.5, "verifier.both_orders": False, "seed": 7.0, "concurrency": 5, "budget.tokens": 900,
            "budget.seconds": 1.5, "device": "cpu", "dtype": None,
        }
    )  # fmt: skip
    judge = SelfJudge(both_orders=False)
    assert search.strategy == StageBeam(candidates=3, beams=2, temperature=0.5, verifier=judge)
    assert (search.pretrained, search.seed, search.concurrency) == ("some/model", 7, 5)
    assert search.budget == Budget(tokens=900, seconds=1.5)
    assert search.backend_options == {"device": "cpu"}
    assert search.schema == LLAVA_O1


def test_defaults_are_stage_beam_on_the_pocket_model() -> None:
    search = Search.from_arguments({})
    assert search.strategy == StageBeam() and search.schema == LLAVA_O1 and search.budget == Budget()
    assert search.load_backend().name == load_backend(None).name


def test_schema_and_preset() -> None:
    assert Search.from_arguments({"strategy": "cot"}).schema == COT
    assert Search.from_arguments({"strategy": "best-of-n", "n": 2, "schema": "cot"}).schema == COT
    paper = Search.from_arguments({"preset": "llava-o1-paper", "candidates": 4}).strategy
    assert isinstance(paper, StageBeam) and paper.candidates == 4 and isinstance(paper.verifier, SelfJudge)


def test_none_reaches_a_setting_that_may_be_none() -> None:
    assert Search.from_arguments({"strategy": "staged", "temperature": None}).strategy == Staged(temperature=None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pretraned": "x"}, "unknown model argument 'pretraned'; did you mean 'pretrained'?"),
        ({"candidate": 2}, "did you mean 'candidates'?"),
        ({"budget.token": 2}, "did you mean 'budget.tokens'?"),
        ({"strategy": "stage-baem"}, "did you mean 'stage-beam'?"),
        ({"verifier": "log-prob", "verifier.x": 1}, "'x'"),
        ({"strategy": "staged", "verifier": "log-prob"}, "takes no verifier"),
        ({"candidates": "many"}, "candidates must be a whole number, not 'many'"),
        ({"candidates": 2.5}, "candidates must be a whole number, not '2.5'"),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"seed": True}, "seed must be a number, not True"),
        ({"concurrency": 0}, "concurrency must be at least 1, not 0"),
        ({"verifier": 3}, "verifier must be a name, not 3"),
        ({"schema": "no-such"}, "no-such"),
        ({"trust_remote_code": "yes"}, "trust_remote_code must be true or false, not 'yes'"),
        ({"budget.tokens": "few"}, "budget tokens must be a number, not 'few'"),
    ],
)
def test_mistakes_are_named_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Search.from_arguments(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_the_error_for_an_unknown_argument_lists_ours_and_the_strategys() -> None:
    with pytest.raises(UnknownNameError, match=r"known: .*candidates.*concurrency.*pretrained.*seed"):
        Search.from_arguments({"nothing": 1})


def test_a_tasks_limit_is_for_what_it_sees() -> None:
    schema = with_generation_arguments(LLAVA_O1, {"max_new_tokens": 16, "temperature": 0, "do_sample": False})
    assert [stage.sampling.max_tokens for stage in schema.stages] == [2048, 2048, 2048, 16]
    assert with_generation_arguments(COT, {"max_new_tokens": 16}).stages[0].sampling.max_tokens == 16
    assert with_generation_arguments(LLAVA_O1, {"max_new_tokens": 4096}) == LLAVA_O1
    assert with_generation_arguments(COT, {"max_gen_toks": "32"}).stages[0].sampling.max_tokens == 32


def test_a_tasks_limit_holds_in_the_search_and_model_arguments_go_before_it() -> None:
    backend = ScriptedBackend(lambda prompt, prefix, stage, seed: "one two three four five six seven " + stage.end)

    def conclusion(**settings: Any) -> int:
        schema = with_generation_arguments(LLAVA_O1, {"max_new_tokens": 3})
        result = decode(Prompt("Why?"), backend=backend, strategy=BestOfN(n=1, **settings), schema=schema)
        return len(result.candidates[0].candidate.spans[-1].token_ids)

    assert conclusion() == 3 < conclusion(max_tokens=5) == 5


def test_greedy_tasks_leave_the_search_its_sampling() -> None:
    for given in ({"temperature": 0, "top_p": 1.0}, {"temperature": None, "top_p": 0}, {"do_sample": False}, {}):
        assert with_generation_arguments(LLAVA_O1, given) == LLAVA_O1


def test_sampling_tasks_set_the_stages_sampling() -> None:
    schema = with_generation_arguments(LLAVA_O1, {"temperature": 0.9, "top_p": "0.8", "top_k": -1, "num_beams": 1})
    for stage in schema.stages:
        assert (stage.sampling.temperature, stage.sampling.top_p, stage.sampling.top_k) == (0.9, 0.8, 0)
    assert Staged().sampling(schema.stages[0]).temperature == 0
    assert StageBeam().sampling(schema.stages[0]).temperature == 0.9


@pytest.mark.parametrize(
    "given",
    [
        {"max_new_tokens": 0}, {"max_new_tokens": 2.5}, {"max_new_tokens": "all"}, {"temperature": float("nan")},
        {"temperature": "hot"}, {"temperature": 1, "top_p": 2}, {"max_new_tokens": True},
    ],
)  # fmt: skip
def test_a_tasks_wrong_settings_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        with_generation_arguments(LLAVA_O1, given)


@pytest.mark.parametrize(
    ("text", "until", "cut"),
    [
        ("4\n\nQ: next", ["\n\n"], "4"),
        ("4 STOP 5 END", ["END", "STOP"], "4"),
        ("4 END", "END", "4"),
        ("4", ["\n\n", ""], "4"),
        ("4", None, "4"),
        ("4", [], "4"),
    ],
)
def test_until_cuts_at_the_first(text: str, until: Any, cut: str) -> None:
    assert cut_at(text, until) == cut


def test_counts_are_of_the_whole_search() -> None:
    """Every candidate's tokens, and those that the judge wrote, not those of the answer alone."""
    reply = "I choose response 1."

    def speak(prompt: Prompt, prefix: Any, stage: Any, seed: int) -> str:
        return reply if stage.name == "REPLY" else scripted(prompt, prefix, stage, seed)

    result = decode(Prompt("Why?"), backend=ScriptedBackend(speak), strategy=StageBeam(3, verifier=SelfJudge()))
    counts = token_counts(result)
    written = [event["tokens"] for event in result.trace.events if event["kind"] == "candidate"]
    judged = result.usage_by_part["verifier"]
    assert len(written) == 9 and judged.generated_tokens > 0  # no CAPTION: there is no picture
    assert counts["output_tokens"] == sum(written) + judged.generated_tokens
    assert counts["input_tokens"] == result.usage_by_part["generator"].prefilled_tokens + judged.prefilled_tokens
    quiet = decode(Prompt("Why?"), backend=ScriptedBackend(speak), strategy=StageBeam(3, verifier=LogProb()))
    assert token_counts(quiet)["output_tokens"] < counts["output_tokens"]
