from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from structdecode.backends.scripted import ScriptedBackend
from structdecode.core import registry
from structdecode.core.budget import Budget
from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.schemas import COT, LLAVA_O1
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.training.rewards import answer_reward, as_reward, format_reward
from structdecode.training.rollouts import read_rollouts
from structdecode.verifiers.by_stage import ByStage
from structdecode.verifiers.ensemble import Ensemble
from structdecode.verifiers.log_prob import LogProb
from structdecode.verifiers.p_true import PTrue
from structdecode.verifiers.rule import Rule
from structdecode.verifiers.self_judge import SelfJudge

RED = Image.new("RGB", (28, 28), "red")
BLUE = Image.new("RGB", (28, 28), "blue")


def answer(conclusion: str, caption: str = "Two squares.") -> str:
    stages = {"SUMMARY": "Count.", "CAPTION": caption, "REASONING": "One, two.", "CONCLUSION": conclusion}
    return "\n\n".join(f"<{name}> {text} </{name}>" for name, text in stages.items())


def said(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def asked(text: str, image: Any = RED, n: int = 1) -> list[list[dict[str, Any]]]:
    """Prompts as GRPOTrainer hands them on: the picture in the message."""
    return [
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
        for _ in range(n)
    ]


class Log:
    """What a trainer would keep."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.extra: dict[str, list[Any]] = {}

    def call(self, reward: Any, prompts: Any, completions: Any, **columns: Any) -> list[float | None]:
        options = {"log_metric": self.metrics.__setitem__, "log_extra": self.extra.__setitem__}
        return asyncio.run(reward(prompts, completions, [[1]] * len(prompts), **options, **columns))


# ------------------------------------------------------------------ what TRL hands over


def test_prompt_and_candidate_come_back() -> None:
    system = {"role": "system", "content": "Be short."}
    prompts = [[system, *asked("How many?")[0]]]
    rollout = read_rollouts(prompts, said(answer("2")), {}, LLAVA_O1)[0]
    assert rollout.prompt == Prompt("How many?", [RED], rollout.prompt.history)  # type: ignore[union-attr]
    assert [(turn.role, turn.text) for turn in rollout.prompt.history] == [("system", "Be short.")]  # type: ignore[union-attr]
    assert rollout.candidate.stages["CONCLUSION"] == "2" and rollout.well_formed
    assert rollout.candidate.answer(LLAVA_O1) == "2"


@pytest.mark.parametrize("columns", [{"images": [[RED]]}, {"image": [RED]}])
def test_pictures_of_a_column(columns: dict[str, Any]) -> None:
    rollout = read_rollouts([[{"role": "user", "content": "How many?"}]], said("x"), columns, LLAVA_O1)[0]
    assert rollout.prompt == Prompt("How many?", [RED])


def test_undecoded_pictures_of_datasets(tmp_path: Path) -> None:
    RED.save(tmp_path / "red.png")
    for image in ({"bytes": None, "path": str(tmp_path / "red.png")}, {"bytes": (tmp_path / "red.png").read_bytes()}):
        rollout = read_rollouts(["How many?"], ["x"], {"image": [image]}, LLAVA_O1)[0]
        assert rollout.prompt == Prompt("How many?", [RED])


def test_without_a_picture_no_caption_is_due() -> None:
    text = answer("2").replace("<CAPTION> Two squares. </CAPTION>\n\n", "")
    without, with_picture = read_rollouts(["How many?"] * 2, [text] * 2, {"images": [None, [RED]]}, LLAVA_O1)
    assert without.well_formed and not with_picture.well_formed


def test_an_instruction_is_taken_off_and_a_begun_answer_goes_on() -> None:
    question = COT.ask(Prompt("How many?")).question
    assert read_rollouts([question], ["2"], {}, COT)[0].prompt == Prompt("How many?")
    begun, rest = answer("2")[:40], answer("2")[40:]
    prompt = [*asked("How many?")[0], {"role": "assistant", "content": begun}]
    assert read_rollouts([prompt], said(rest), {}, LLAVA_O1)[0].well_formed


def test_completions_of_one_question_are_one_group() -> None:
    prompts = [*asked("How many?", n=2), *asked("How many?", BLUE), *asked("Which?")]
    groups = [rollout.group for rollout in read_rollouts(prompts, said(*"abcd"), {}, LLAVA_O1)]
    assert groups[0] == groups[1] and len(set(groups)) == 3


# ------------------------------------------------------------------ any verifier


@dataclass
class Seen:
    """Scores by the candidates' conclusions, and remembers what it was shown."""

    shown: list[tuple[str, list[str]]]

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Any) -> list[Score]:
        self.shown.append((prompt.question, [c.stages["CONCLUSION"] for c in candidates]))
        return [Score(float(c.stages["CONCLUSION"])) for c in candidates]


def test_groups_are_scored_together_and_rewards_keep_the_rows_order() -> None:
    verifier, log = Seen([]), Log()
    prompts = [asked("A?")[0], asked("B?")[0], asked("A?")[0], asked("B?")[0]]
    rewards = log.call(as_reward(verifier), prompts, said(*(answer(n) for n in "1234")))
    assert rewards == [1.0, 2.0, 3.0, 4.0]
    assert sorted(verifier.shown) == [("A?", ["1", "3"]), ("B?", ["2", "4"])]


def test_unscored_is_none_and_no_failure() -> None:
    log = Log()
    assert log.call(as_reward(LogProb()), asked("A?"), said(answer("1"))) == [None]
    assert log.metrics == {"rewards/log-prob/unscored": 1.0, "rewards/log-prob/failed": 0.0}
    assert log.extra == {"log-prob/reason": ["the model wrote no tokens"]}


def test_malformed_answers_can_have_a_reward_of_their_own() -> None:
    rule = Rule(pattern=r"\d", stage="CONCLUSION")
    texts = said(answer("2"), answer("2").replace("<CAPTION>", ""))
    assert Log().call(as_reward(rule), asked("A?", n=2), texts) == [1.0, 1.0]
    assert Log().call(as_reward(rule, malformed=-1.0), asked("A?", n=2), texts) == [1.0, -1.0]


@dataclass
class Broken:
    how: str

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Any) -> Any:
        if prompt.question == "Fine?":
            return [Score(0.5) for _ in candidates]
        if self.how == "raises":
            raise KeyError("no")
        while self.how in ("hangs", "swallows"):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if self.how == "hangs":
                    raise
        if self.how == "exits":
            raise SystemExit(3)
        wrong: dict[str, Any] = {
            "NaN": [Score(math.nan)] * len(candidates), "short": [Score(1.0)], "numbers": [1.0] * len(candidates),
            "nothing": None, "text": [Score("high")] * len(candidates),  # type: ignore[arg-type]
        }  # fmt: skip
        return wrong[self.how]


@pytest.mark.parametrize("how", ["raises", "hangs", "swallows", "exits", "NaN", "short", "numbers", "nothing", "text"])
@pytest.mark.parametrize("sync", [False, True])
def test_a_failing_verifier_is_none_and_a_metric(how: str, sync: bool) -> None:
    log = Log()
    reward = as_reward(Broken(how), name="broken", timeout=0.2, sync=True)
    metrics = {"log_metric": log.metrics.__setitem__, "log_extra": log.extra.__setitem__}
    prompts = [*asked("Bad?", n=2), *asked("Fine?", n=2)]
    if sync:
        found = reward(prompts, said("a", "b", "c", "d"), None, **metrics)
    else:
        found = log.call(as_reward(Broken(how), name="broken", timeout=0.2), prompts, said("a", "b", "c", "d"))
    assert found == [None, None, 0.5, 0.5]
    assert log.metrics["rewards/broken/failed"] == log.metrics["rewards/broken/unscored"] == 0.5
    assert all(reason.startswith("failed: ") for reason in log.extra["broken/reason"][:2])


class Blocking:
    def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Any) -> list[Score]:
        time.sleep(60 if prompt.question == "Bad?" else 0)
        return [Score(0.5) for _ in candidates]


def test_a_plain_verifier_that_blocks_is_left_behind() -> None:
    began = time.monotonic()
    reward = as_reward(Blocking(), name="blocking", timeout=0.2)  # type: ignore[arg-type]
    assert Log().call(reward, [*asked("Bad?"), *asked("Fine?")], said("a", "b")) == [None, 0.5]
    assert time.monotonic() - began < 30


def test_bad_rows_are_none(tmp_path: Path) -> None:
    log = Log()
    prompts = [[{"role": "user", "content": text}] for text in ("How many?", " ", "How many?")]
    columns = {"images": [[RED], [RED], [str(tmp_path / "gone.png")]]}
    found = log.call(as_reward(Rule(pattern="2", stage="CONCLUSION")), prompts, said(*[answer("2")] * 3), **columns)
    assert found == [1.0, None, None]
    assert "gone.png: no such file" in log.extra["rule/reason"][2]


# ------------------------------------------------------------------ verifiers that ask a model


def judge(prompt: Prompt, prefix: Candidate, stage: Any, seed: int) -> str:
    return "I choose response 2." if "I choose" in prompt.question else "correct"


@pytest.mark.parametrize(
    "verifier", ["p-true", SelfJudge(), Ensemble({"a": LogProb(), "b": PTrue()}), ByStage({}, default=PTrue())]
)
def test_no_backend_is_said_at_once(verifier: Any) -> None:
    with pytest.raises(ConfigError, match=r"verifier '(p-true|self-judge)' asks a model: give as_reward a backend"):
        as_reward(verifier)


@dataclass
class Asks:
    questions: tuple[str, ...]

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Any) -> list[Score]:
        if prompt.question in self.questions:
            await model.log_probs(prompt, ["yes"])
        return [Score(1.0) for _ in candidates]


def test_no_backend_is_said_at_the_first_batch_and_never_later() -> None:
    with pytest.raises(ConfigError, match="give as_reward a backend"):
        Log().call(as_reward(Asks(("A?",))), asked("A?"), said("x"))
    log, reward = Log(), as_reward(Asks(("A?",)), name="asks")
    assert log.call(reward, asked("B?"), said("x")) == [1.0]
    assert log.call(reward, asked("A?"), said("x")) == [None]
    assert log.metrics["rewards/asks/failed"] == 1.0


def test_a_verifier_gets_a_metered_model() -> None:
    log = Log()
    reward = as_reward("p-true", ScriptedBackend(judge))
    found = log.call(reward, asked("A?", n=2), said(answer("1"), answer("2")))
    assert found == pytest.approx([1 / (1 + math.e)] * 2)  # three characters against two, -1 each
    assert log.metrics["rewards/p-true/prefilled_tokens"] > 0 and log.metrics["rewards/p-true/unscored"] == 0


def test_a_pairwise_judge_compares_within_a_group() -> None:
    log = Log()
    reward = as_reward(SelfJudge(pre_check=False), ScriptedBackend(judge))
    found = log.call(reward, [*asked("A?", n=2), *asked("B?")], said(answer("1"), answer("2"), answer("3")))
    assert sorted(filter(None, found[:2])) == [1.0] and found[2] == 1.0  # one of two wins; the third is unopposed
    assert log.metrics["rewards/self-judge/generated_tokens"] == len("I choose response 2.")


def test_a_budget_leaves_rows_unscored() -> None:
    log = Log()
    reward = as_reward("p-true", ScriptedBackend(judge), budget=Budget(prefill_tokens=1))
    assert log.call(reward, asked("A?"), said(answer("1"))) == [None]
    assert log.metrics["rewards/p-true/failed"] == 0.0 and "budget spent" in log.extra["p-true/reason"][0]


def test_names() -> None:
    assert as_reward(Rule(pattern="x")).__name__ == "rule"
    assert as_reward(Rule(pattern="x"), sync=True, name="mine").__name__ == "mine"
    assert format_reward().__name__ == "format" and answer_reward(name="right").__name__ == "right"
    with pytest.raises(UnknownNameError, match="did you mean 'p-true'"):
        as_reward("p-tru")


def test_a_registered_function_is_a_reward() -> None:
    @registry.verifier("short-in-rewards")
    def short(candidate: Candidate) -> float:
        return -len(candidate.stages["CONCLUSION"])

    assert Log().call(as_reward("short-in-rewards"), asked("A?"), said(answer("123"))) == [-3.0]


# ------------------------------------------------------------------ format and answer

FORMS = [
    (answer("2"), 1.0),
    (answer("2") + " And so on.", 0.75),
    (answer("2").replace("</REASONING>", ""), 0.5),
    (answer("2").replace("<CAPTION> Two squares. </CAPTION>", ""), 0.75),
    (answer("2", caption=""), 0.75),
    (answer("2") + answer("3"), None),
    ("2", 0.0),
    ("", 0.0),
]


@pytest.mark.parametrize(("text", "share"), FORMS)
def test_format(text: str, share: float | None) -> None:
    graded = format_reward()(asked("A?"), said(text))[0]
    binary = format_reward(graded=False)(asked("A?"), said(text))[0]
    assert graded is not None and graded < 1.0 if share is None else graded == share
    assert binary == float(share == 1.0)


def test_answer_by_the_matching_rules() -> None:
    prompts, texts = asked("How many?", n=5), said(*(answer(t) for t in ("2", "two", "3", "2.0", "2")))
    columns = {"answer": ["2", "2", "2", ["5", "2"], None]}
    assert answer_reward()(prompts, texts, **columns) == [1.0, 1.0, 0.0, 1.0, None]
    options = {"options": [{"A": "cat", "B": "dog", "C": None}]}
    assert answer_reward(kind="choice")(asked("Which?"), said(answer("B")), answer=["B"], **options) == [1.0]
    assert answer_reward()(asked("Which?"), said("2"), answer=["2"]) == [0.0]  # not in the visible stage


def test_a_missing_answer_column_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no column 'answer' with the answers; it has: solution"):
        answer_reward()(asked("A?"), said("2"), solution=["2"])


def test_sync_rewards_work_inside_a_running_loop() -> None:
    async def inside() -> Any:
        return as_reward(Rule(pattern="2", stage="CONCLUSION"), sync=True)(asked("A?"), said(answer("2")))

    assert asyncio.run(inside()) == [1.0]
