"""A recipe's turns, filled in for a question and the steps of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from structdecode.core.types import Candidate, Message, Prompt
from structdecode.verifiers.prompts import fill
from structdecode.verifiers.recipes.recipe import PICTURES, Images, Recipe, Thinking


class Turn(NamedTuple):
    """A user's turn: its text, and before which character of it pictures stand; None where the recipe's turn leaves open."""

    text: str
    pictures: int | None


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
        turns = [_filled(recipe, recipe.question, prompt, steps, 0)]
        turns += [_filled(recipe, recipe.next_step, prompt, steps, later) for later in range(1, at + 1)]
        return _prompt(prompt, turns, recipe.system, recipe.images, recipe.reply)
    numbers = range(recipe.first_number, recipe.first_number + len(judged))
    lines = [fill(recipe.judgment, number=str(n), label=label) for n, label in zip(numbers, judged, strict=True)]
    asked = _filled(
        recipe, recipe.question, prompt, steps, at,
        thinking=thinking, judgments="\n".join(lines) or recipe.no_judgment,
    )  # fmt: skip
    return _prompt(prompt, [asked], recipe.system, recipe.images)


def ask_answer(recipe: Recipe, prompt: Prompt, steps: Sequence[str], thinking: str = "") -> Prompt:
    """The prompt behind which the model says what a whole answer is worth."""
    asked = _filled(recipe, recipe.question, prompt, steps, len(steps) - 1, thinking=thinking)
    return _prompt(prompt, [asked], recipe.system, recipe.images)


def ask_head(recipe: Recipe, prompt: Prompt) -> Prompt:
    """The prompt behind which a head reads answers."""
    return _prompt(prompt, [_turn(recipe.question, question=prompt.question)], recipe.system, recipe.images)


def ask_thinking(recipe: Recipe, thinking: Thinking, prompt: Prompt, steps: Sequence[str]) -> Prompt:
    """The prompt behind which the model writes about the whole answer."""
    asked = _filled(recipe, thinking.question, prompt, steps, len(steps) - 1)
    return _prompt(prompt, [asked], thinking.system, thinking.images)


def ask_pair(recipe: Recipe, prompt: Prompt, first: str, second: str) -> Prompt:
    """The prompt behind which the model says which of two answers is better."""
    asked = _turn(recipe.question, question=prompt.question, first=first, second=second)
    return _prompt(prompt, [asked], recipe.system, recipe.images)


def _filled(recipe: Recipe, text: str, prompt: Prompt, steps: Sequence[str], at: int, **more: str) -> Turn:
    numbered = (
        fill(recipe.numbered, number=str(number), step=step) for number, step in enumerate(steps, recipe.first_number)
    )
    return _turn(
        text, question=prompt.question, answer=answer_of(recipe, steps), step=steps[at],
        number=str(recipe.first_number + at), solution="\n".join(numbered), **more,
    )  # fmt: skip


def _turn(text: str, **values: str) -> Turn:
    """The place of pictures is looked for in the recipe's text alone: a question may say ``{images}``, too."""
    before, marked, behind = text.partition(PICTURES)
    filled = fill(before, **values)
    return Turn(filled + fill(behind, **values), len(filled) if marked else None)


def _prompt(prompt: Prompt, turns: Sequence[Turn], system: str, images: Images, reply: str = "") -> Prompt:
    """User turns as a prompt, between two of them the assistant's reply."""
    first = turns[0]
    history = [Message("system", system)] if system else []
    for turn in turns[:-1]:
        history += [Message("user", turn.text), Message("assistant", reply)]
    place = {"first": 0, "last": len(first.text), "none": 0}[images] if first.pictures is None else first.pictures
    return Prompt(turns[-1].text, () if images == "none" else prompt.images, history, images_at=place)
