"""What a recipe's file may say, and how replies are read; no model is loaded."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.settings import build
from structdecode.core.types import Prompt
from structdecode.testing import candidate
from structdecode.verifiers.recipes import OutcomeReward, ProcessReward, asking
from structdecode.verifiers.recipes.recipe import (
    HeadRead,
    PairRead,
    Recipe,
    TextRead,
    Thinking,
    TokenRead,
    built_in,
)

DOCS = Path(__file__).parents[2] / "docs" / "reward-models.md"
PLAIN = {"about": "A test.", "question": "{question} {step}", "tokens": {"labels": {"yes": 1, "no": 0}}}


def written(place: Path, **changed: Any) -> str:
    content = {key: value for key, value in {**PLAIN, **changed}.items() if value is not None}
    (place / "own.yaml").write_text(yaml.safe_dump(content))
    return str(place / "own.yaml")


# ------------------------------------------------------------------ replies
POINT = [
    ("unified-reward-point", "It is fine.\nFinal Score: 85", 0.85),
    ("unified-reward-point", "Final Score: 0", 0.0),
    ("unified-reward-point", "**Final Score:** 100.", 1.0),
    ("unified-reward-point", "Final Score: 72.5", 0.725),
    ("unified-reward-point", "Final Score: 20. No: final score: 30", 0.3),
    ("unified-reward-point", "Final Score: 185", None),
    ("unified-reward-point", "85", None),
    ("unified-reward-point", "", None),
    ("llava-critic-point", "85\nThe response is right, 3 of 4.", 0.85),
    ("llava-critic-point", "Score: 90/100", 0.9),
    ("llava-critic-point", "100", 1.0),
    ("llava-critic-point", "none", None),
]


@pytest.mark.parametrize(("name", "reply", "value"), POINT)
def test_scores_in_replies(name: str, reply: str, value: float | None) -> None:
    read = Recipe.load(name).text
    assert read is not None and read.value(reply) == (value if value is None else pytest.approx(value))


PAIR = [
    ("unified-reward-pair", "Because of that, Answer 2 is better.", 1),
    ("unified-reward-pair", "Answer 1 is better than Answer 2", 0),
    ("unified-reward-pair", "Both answers are equally good.", None),
    ("unified-reward-think-pair", "<think>Answer 1 is better at 2</think>\n<answer>Answer 2 is better</answer>", 1),
    ("unified-reward-think-pair", "<think>Answer 1 is better</think>", None),
    ("r1-reward", "<think>Response 2 lacks 1.</think><answer>1</answer>", 0),
    ("r1-reward", "<think>1</think><answer> 2 </answer>", 1),
    ("r1-reward", "So I choose Response 1 over Response 2. The better one: 1", 0),
    ("r1-reward", "<answer>both</answer> 1", None),
    ("r1-reward", "neither", None),
    ("llava-critic-r1", r"<think>\boxed{1}?</think> \boxed{2}", 1),
    ("llava-critic-r1", r"\boxed{ 1 }", 0),
    ("llava-critic-r1", r"\boxed{12}", None),
    ("llava-critic-r1", "1", None),
    ("llava-critic-pair", "The second response is better. It says more than the first response.", 1),
    ("llava-critic-pair", "The First response is slightly better.", 0),
    ("llava-critic-pair", "Both responses are equally good.", None),
]


@pytest.mark.parametrize(("name", "reply", "winner"), PAIR)
def test_verdicts_in_replies(name: str, reply: str, winner: int | None) -> None:
    read = Recipe.load(name).pair
    assert read is not None and read.winner([reply]) == winner


@given(st.lists(st.sampled_from(["<1>", "<2>", "?", ""]), max_size=9))
def test_more_votes_win_and_what_cannot_be_read_has_none(replies: list[str]) -> None:
    ahead = replies.count("<2>") - replies.count("<1>")
    assert PairRead("<(.)>").winner(replies) == (None if not ahead else int(ahead > 0))


@given(st.text(), st.floats(-1e6, 1e6), st.floats(0.1, 1e6))
def test_a_value_is_between_0_and_1_or_none(reply: str, least: float, width: float) -> None:
    found = TextRead(r"(?s)(.*)", least=least, most=least + width).value(reply)
    assert found is None or 0 <= found <= 1


@given(st.floats(0, 100))
def test_a_number_is_scaled(number: float) -> None:
    found = TextRead(r"score (\S+)", least=-50, most=150).value(f"score {number!r}")
    assert found is not None and math.isclose(found, (number + 50) / 200, abs_tol=1e-12)


def test_words_have_values() -> None:
    read = TextRead(r"(?i)\b(yes|no)\b", {"yes": 1.0, "no": 0.0})
    assert [read.value(reply) for reply in ("yes, no", "yes", "Yes", "")] == [0.0, 1.0, None, None]


@pytest.mark.parametrize("reply", ["<think> a\nb </think>", "<think>a\nb", "a\nb", "so <think>a\nb</think> and"])
def test_what_vrprm_thinks_goes_on_without_its_tags(reply: str) -> None:
    thinking = Recipe.load("vrprm").thinking
    assert thinking is not None
    found = re.search(thinking.pattern, reply)
    assert found is not None and found.group(1) == "a\nb"


# ------------------------------------------------------------------ files
@pytest.mark.parametrize("name", sorted(built_in()))
def test_a_packaged_recipe_can_be_read(name: str) -> None:
    recipe = Recipe.load(name)
    assert not recipe.models or re.search("not run here|tried here", recipe.about), "what was not tried is said"
    texts = (recipe.question, recipe.next_step, recipe.thinking.question if recipe.thinking else "")
    places = {place for text in texts for place in re.findall(r"\{(\w+)\}", text)}
    assert places <= {
        "question", "answer", "step", "number", "solution", "judgments", "thinking", "first", "second", "images",
    }  # fmt: skip
    assert ("first" in places) == (recipe.pair is not None)


WRONG = [
    ({"questoin": "?"}, "did you mean 'question'"),
    ({"question": None}, "question is missing"),
    ({"tokens": None}, "one of tokens, text, pair and head says how it is read, not none"),
    ({"text": {"pattern": "(.)"}, "level": "answer"}, "not tokens and text"),
    ({"tokens": {"labels": {"yes": 1}}}, "tokens: two labels or more"),
    ({"tokens": {"labels": {"yes": "high", "no": 0}}}, "tokens.labels.yes is 'high'"),
    ({"level": "token"}, "level is 'token': step or answer is wanted"),
    ({"images": "middle"}, "images is 'middle'"),
    ({"models": "one"}, "models is 'one': a list"),
    ({"first_number": "one"}, "first_number is 'one'"),
    ({"processor": {"size": 7}}, "processor.size is 7"),
    ({"aggregate": "sum"}, "aggregate is 'sum'"),
    ({"tokens": None, "text": {"pattern": "(.)"}}, "level has to be answer"),
    ({"tokens": None, "pair": {"pattern": "(.)"}}, "level has to be answer"),
    ({"tokens": None, "text": {"pattern": "("}, "level": "answer"}, "text: pattern '('"),
    ({"tokens": None, "text": {"pattern": "."}, "level": "answer"}, "has 0 groups: one is read"),
    ({"tokens": None, "text": {"pattern": "(.)", "least": 1}, "level": "answer"}, "least has to be below most"),
    ({"tokens": None, "text": {"pattern": "(.)", "votes": 0}, "level": "answer"}, "votes 1 or more"),
    ({"tokens": None, "pair": {"pattern": "(.)(.)"}, "level": "answer"}, "pair: pattern '(.)(.)' has 2 groups"),
    ({"tokens": None, "pair": {"pattern": "(.)", "otherwise": "."}, "level": "answer"}, "pair: otherwise '.'"),
    ({"tokens": None, "pair": {"pattern": "(.)", "values": {"A": 3}}, "level": "answer"}, "values 1 or 2"),
    ({"tokens": None, "pair": {"pattern": "(.)", "votes": 0}, "level": "answer"}, "votes has to be 1 or more"),
    ({"thinking": {"question": "?", "pattern": "."}}, "thinking: pattern '.'"),
    ({"tokens": None, "head": {"file": "f", "layers": []}}, "head: layers names"),
    ({"tokens": None, "head": {"file": "f", "layers": ["score"]}}, "read at a marker"),
    ({"tokens": None, "head": {"file": "f", "layers": ["s"], "marker": "<x>"}, "level": "answer"}, "without one"),
    (
        {"tokens": None, "text": {"pattern": "(.)"}, "level": "answer", "judgment": "{label}"},
        "labels are known where tokens are read",
    ),
]


@pytest.mark.parametrize(("changed", "message"), WRONG)
def test_a_mistake_in_a_file_is_named_in_one_line(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        ProcessReward(str(tmp_path), recipe=written(tmp_path, **changed))
    assert message in str(raised.value) and "own.yaml" in str(raised.value) and "\n" not in str(raised.value)


def test_a_recipe_is_chosen_by_the_checkpoints_name(tmp_path: Path) -> None:
    assert ProcessReward("ob11/Qwen-VL-PRM-3B").recipe == "qwen-vl-prm"
    (tmp_path / "Qwen3-VRPRM-4B").mkdir()
    assert ProcessReward(str(tmp_path / "Qwen3-VRPRM-4B")).recipe == "vrprm"
    with pytest.raises(ConfigError, match="recipes llava-critic-pair and llava-critic-point are for model 'lmms-lab/"):
        OutcomeReward("lmms-lab/llava-critic-7b")
    with pytest.raises(
        ConfigError, match="no recipe names model 'someone/prm': say which with recipe: llava-critic-pair,"
    ):
        ProcessReward("someone/prm")
    assert OutcomeReward("someone/copy", recipe="r1-reward").recipe == "r1-reward"


def test_another_recipe_at_the_same_path_is_another_verifier(tmp_path: Path) -> None:
    def made() -> ProcessReward:
        return ProcessReward("someone/prm", recipe=str(tmp_path / "own.yaml"))

    written(tmp_path)
    first = made()
    assert first == made()
    written(tmp_path, aggregate="min")
    assert made() != first and made().recipe_digest != first.recipe_digest
    assert first._recipe.aggregate == "mean"


def test_mistakes_are_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'vrprm'"):
        ProcessReward(str(tmp_path), recipe="vprm")
    with pytest.raises(ConfigError, match=r"recipe 'r1-reward' values whole answers: use outcome-reward"):
        ProcessReward("yifanzhang114/R1-Reward")
    with pytest.raises(ConfigError, match=r"recipe 'vrprm' values steps: use process-reward"):
        OutcomeReward("two-tiger/Qwen3-VRPRM-4B")
    with pytest.raises(ConfigError, match="no such directory"):
        ProcessReward(f"{tmp_path}/Qwen-VL-PRM-3B")
    with pytest.raises(ConfigError, match=r"no-such\.yaml"):
        ProcessReward(str(tmp_path), recipe=f"{tmp_path}/no-such.yaml")
    with pytest.raises(ConfigError, match="'process-reward' needs model"):
        build("verifiers", "process-reward")
    with pytest.raises(ConfigError, match="aggregate must be one of"):
        build("verifiers", "process-reward", {"model": "ob11/Qwen-VL-PRM-3B", "aggregate": "sum"})


# ------------------------------------------------------------------ prompts
def test_places_in_a_question_or_a_step_are_text() -> None:
    recipe = Recipe(
        "A test.", "{solution}|{question}|{images}{step}|{number}|{thinking}|{judgments}", judgment="{number}={label}",
        tokens=TokenRead({"1": 1, "0": 0}),
    )  # fmt: skip
    asked = asking.ask_step(recipe, Prompt("{step} {images}?"), ["a {question}", "b"], 1, ["1"], "{images}")
    assert asked.question == "Step 0: a {question}\nStep 1: b|{step} {images}?|b|1|{images}|0=1"
    assert asked.question[asked.images_at :] == "b|1|{images}|0=1"


def test_stages_become_steps() -> None:
    recipe = Recipe("", "{answer}", step="## {stage}\n{text}", joined="\n", tokens=TokenRead({"1": 1, "0": 0}))
    steps = asking.steps_of(recipe, candidate("one", "", "three"))
    assert asking.answer_of(recipe, steps) == "## Summary\none\n## Reasoning\nthree"


# ------------------------------------------------------------------ the page
def test_every_recipe_is_on_the_page() -> None:
    rows = {row.split("|")[1].strip().strip("`"): row for row in DOCS.read_text().splitlines() if row.startswith("| `")}
    for name in built_in():
        recipe = Recipe.load(name)
        assert name in rows, f"{name} is not in the table of {DOCS.name}"
        assert all(kind in rows[name] for kind in recipe.architectures)
        assert f"| {recipe.level} |" in rows[name]
        assert all(model.rpartition("/")[0] in rows[name] for model in recipe.models)


def test_every_field_is_on_the_page() -> None:
    page = DOCS.read_text()
    for kind, prefix in (
        (Recipe, ""), (Thinking, "thinking."), (TokenRead, "tokens."), (TextRead, "text."), (PairRead, "pair."), (HeadRead, "head."),
    ):  # fmt: skip
        for name in kind.__dataclass_fields__:
            assert f"`{prefix}{name}`" in page, f"{prefix}{name} is not explained in {DOCS.name}"
