"""A recipe's turns, filled in for a question and the steps of an answer."""

from __future__ import annotations

from collections.abc import Sequence

from structdecode.core.types import Candidate, Message, Prompt
from structdecode.verifiers.prompts import fill
from structdecode.verifiers.recipes.recipe import Recipe, Thinking


def steps_of(recipe: Recipe, candidate: Candidate) -> list[str]:
    """The stages of a candidate as steps; none that is empty."""
    return [
        fill(recipe.step, stage=stage.capitalize(), text=text)
        for stage, text in candidate.stages.items()
        if text.strip()
    ]


def answer_of(recipe: Recipe, steps: Sequence[str]) -> str:
    """The whole answer."""
    return recipe.joined.join(steps)


def ask_step(
    recipe: Recipe, prompt: Prompt, steps: Sequence[str], at: int, judged: Sequence[str] = (), thinking: str = ""
) -> Prompt:
    """The prompt behind which the model says whether a step is right.

    Args:
        judged: labels of the steps before, where the recipe shows them. thinking: what was written about the whole.
    """
    if recipe.reply:
        history = [Message("user", _filled(recipe, recipe.question, prompt, steps, 0))]
        for later in range(1, at + 1):
            turn = _filled(recipe, recipe.next_step, prompt, steps, later)
            history += [Message("assistant", recipe.reply), Message("user", turn)]
        return _prompt(recipe, prompt, history[-1].text, history[:-1], recipe.system)
    numbers = range(recipe.first_number, recipe.first_number + len(judged))
    lines = [fill(recipe.judgment, number=str(n), label=label) for n, label in zip(numbers, judged, strict=True)]
    asked = _filled(
        recipe, recipe.question, prompt, steps, at,
        thinking=thinking, judgments="\n".join(lines) or recipe.no_judgment,
    )  # fmt: skip
    return _prompt(recipe, prompt, asked, (), recipe.system)


def ask_answer(recipe: Recipe, prompt: Prompt, steps: Sequence[str], thinking: str = "") -> Prompt:
    """The prompt behind which the model says what a whole answer is worth."""
    asked = _filled(recipe, recipe.question, prompt, steps, len(steps) - 1, thinking=thinking)
    return _prompt(recipe, prompt, asked, (), recipe.system)


def ask_thinking(recipe: Recipe, thinking: Thinking, prompt: Prompt, steps: Sequence[str]) -> Prompt:
    """The prompt behind which the model writes about the whole answer."""
    asked = _filled(recipe, thinking.question, prompt, steps, len(steps) - 1)
    return _prompt(recipe, prompt, asked, (), thinking.system)


def ask_pair(recipe: Recipe, prompt: Prompt, first: str, second: str) -> Prompt:
    """The prompt behind which the model says which of two answers is better."""
    asked = fill(recipe.question, question=prompt.question, first=first, second=second)
    return _prompt(recipe, prompt, asked, (), recipe.system)


def _filled(recipe: Recipe, text: str, prompt: Prompt, steps: Sequence[str], at: int, **more: str) -> str:
    numbered = (
        fill(recipe.numbered, number=str(number), step=step) for number, step in enumerate(steps, recipe.first_number)
    )
    return fill(
        text, question=prompt.question, answer=answer_of(recipe, steps), step=steps[at],
        number=str(recipe.first_number + at), solution="\n".join(numbered), **more,
    )  # fmt: skip


def _prompt(recipe: Recipe, prompt: Prompt, asked: str, history: Sequence[Message], system: str) -> Prompt:
    first = [Message("system", system)] if system else []
    images = () if recipe.images == "none" else prompt.images
    return Prompt(asked, images, [*first, *history], images_last=recipe.images == "last")
