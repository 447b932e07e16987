"""Released reward models as verifiers: a checkpoint, and the recipe that says how it is asked and read."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from structdecode.core.digests import checkpoint_digest
from structdecode.core.errors import ConfigError, PromptError
from structdecode.core.lookup import find_checkpoint
from structdecode.core.protocols import Model, Verdict
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Sampling, Score
from structdecode.verifiers.labels import read_labels
from structdecode.verifiers.own_model import OwnModel
from structdecode.verifiers.recipes import asking
from structdecode.verifiers.recipes.recipe import HeadRead, PairRead, Recipe, TextRead, Thinking, TokenRead, built_in
from structdecode.verifiers.tournaments import Knockout, RoundRobin

NOTHING = "nothing is written yet"

if TYPE_CHECKING:
    from structdecode.verifiers.recipes.reading import RecipeModel


@dataclass(frozen=True)
class _RecipeReward(OwnModel):
    """A released reward model, asked and read as its recipe says.

    It runs on the engine that searches run on: pictures and what prompts share are computed once a search. A stage is a
    step. A value is in the details by the stage's name; ``label_mass`` is the least probability that the model gives
    the recipe's labels together. Verifiers of one checkpoint share the weights.

    Attributes:
        model: the checkpoint's directory (or its name on the hub).
        recipe: one of the package's by name, or a YAML file; empty: the one that names the checkpoint.
        aggregate: how steps become one score; default: the recipe's. ``last``, ``min``, ``mean`` or ``product``.
        device, dtype: default: CUDA where there is one; float32 on a CPU, else the checkpoint's own.
        trust_remote_code: whether code that comes with the checkpoint may run.
        digest, recipe_digest: of a checkpoint in a directory, and of the recipe: others at the same path are another verifier.
    """

    model: str
    recipe: str = ""
    aggregate: Literal["", "mean", "last", "min", "product"] = ""
    device: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    digest: str = field(init=False, default="")
    recipe_digest: str = field(init=False, default="")
    level: ClassVar[Literal["step", "answer"]]

    def __post_init__(self) -> None:
        """Before any work is done: a wrong path should not cost a search."""
        check_settings(self)
        object.__setattr__(self, "recipe", self.recipe or _recipe_of(self.model))
        other = {"step": "outcome-reward", "answer": "process-reward"}[self.level]
        if self._recipe.level != self.level:
            raise ConfigError(
                f"recipe {self.recipe!r} values {'whole answers' if self.level == 'step' else 'steps'}: use {other}"
            )
        place = Path(find_checkpoint(self.model))
        if not place.is_dir() and (place.exists() or self.model.startswith((".", "/", "~"))):
            raise ConfigError(f"model {self.model!r}: no such directory")
        object.__setattr__(self, "digest", checkpoint_digest(place) if place.is_dir() else "")
        digest = hashlib.blake2b(repr(self._recipe).encode(), digest_size=8).hexdigest()
        object.__setattr__(self, "recipe_digest", digest)

    @cached_property
    def _recipe(self) -> Recipe:
        return Recipe.load(self.recipe)

    async def _loaded_model(self) -> RecipeModel:
        from structdecode.verifiers.recipes.reading import load

        settings = (self.device, self.dtype, self.trust_remote_code)
        return await self._from_checkpoint(
            "model", self.model, self.digest, (self.recipe_digest, *settings),
            lambda place: load(place, self._recipe, *settings),
        )  # fmt: skip

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        if not candidates:
            return []
        loaded, recipe = await self._loaded_model(), self._recipe
        reading = _Reading(recipe, loaded, model.on(loaded.backend), self.aggregate or recipe.aggregate)
        if recipe.pair is not None:
            kind = Knockout if recipe.pair.tournament == "knockout" else RoundRobin
            return await kind(_Judge(recipe, recipe.pair, reading.model)).score(prompt, candidates, model)
        if recipe.head is not None:
            return await reading.by_head(recipe.head, prompt, candidates)
        return list(await asyncio.gather(*(reading.score(prompt, candidate) for candidate in candidates)))


class ProcessReward(_RecipeReward):
    __doc__ = (_RecipeReward.__doc__ or "").replace("A released reward model", "A released process reward model", 1)
    level = "step"


class OutcomeReward(_RecipeReward):
    __doc__ = (_RecipeReward.__doc__ or "").replace("A released reward model", "A released outcome reward model", 1)
    level = "answer"


def _recipe_of(model: str) -> str:
    """The recipe that names a checkpoint: by its name on the hub, or its directory's last part."""
    own = Path(model).name
    known = {name: [each.rpartition("/")[2] for each in Recipe.load(name).models] for name in sorted(built_in())}
    found = [name for name, models in known.items() if own in models]
    if len(found) > 1:
        raise ConfigError(f"recipes {' and '.join(found)} are for model {model!r}: say which with recipe")
    if not found:
        raise ConfigError(f"no recipe names model {model!r}: say which with recipe: {', '.join(known)}, or a YAML file")
    return found[0]


@dataclass(frozen=True)
class _Reading:
    """A recipe at work on one set of candidates."""

    recipe: Recipe
    loaded: RecipeModel
    model: Model
    aggregate: str

    async def score(self, prompt: Prompt, candidate: Candidate) -> Score:
        steps = asking.steps_of(self.recipe, candidate)
        if not steps:
            return Score.unscored(NOTHING)
        try:
            return await self._score(prompt, candidate, steps)
        except PromptError as error:
            return Score.unscored(str(error))

    async def by_head(self, head: HeadRead, prompt: Prompt, candidates: Sequence[Candidate]) -> list[Score]:
        """All behind one prompt: what candidates share is read once."""
        asked = asking.ask_head(self.recipe, prompt)
        written = [bool(asking.steps_of(self.recipe, candidate)) for candidate in candidates]
        read = [candidate for candidate, any_of_it in zip(candidates, written, strict=True) if any_of_it]
        found = iter(await self._by_head(head, asked, read))
        return [next(found) if any_of_it else Score.unscored(NOTHING) for any_of_it in written]

    async def _by_head(self, head: HeadRead, asked: Prompt, candidates: Sequence[Candidate]) -> list[Score]:
        try:
            pieces = [self._pieces(head, asked, asking.steps_of(self.recipe, candidate)) for candidate in candidates]
            read = await self.model.read(asked, pieces, hidden_layers=[-1])
        except PromptError as error:
            if len(candidates) == 1:
                return [Score.unscored(str(error))]
            return [(await self._by_head(head, asked, [candidate]))[0] for candidate in candidates]
        found: list[Score] = []
        for candidate, spans in zip(candidates, read, strict=True):
            states = [span.hidden_states for span in (spans if head.marker else spans[-1:])]
            values = [self.loaded.value(state[0], head) for state in states if state is not None]
            found.append(self._aggregated(candidate, values))
        return found

    def _pieces(self, head: HeadRead, asked: Prompt, steps: Sequence[str]) -> list[tuple[int, ...]]:
        if head.marker:
            return self.loaded.marked(asked, steps, head.marker)
        grown = [asking.answer_of(self.recipe, steps[:end]) for end in range(1, len(steps) + 1)]
        return self.loaded.closed(asked, grown, self.recipe.joined)

    async def _score(self, prompt: Prompt, candidate: Candidate, steps: list[str]) -> Score:
        recipe = self.recipe
        thinking = await self._thinking(recipe.thinking, prompt, steps) if recipe.thinking is not None else ""
        if recipe.text is not None:
            return await self._by_text(recipe.text, asking.ask_answer(recipe, prompt, steps, thinking))
        assert recipe.tokens is not None
        if recipe.level == "answer":
            found = [await self._by_tokens(recipe.tokens, asking.ask_answer(recipe, prompt, steps, thinking))]
        elif recipe.judgment:
            found = await self._one_by_one(recipe.tokens, prompt, steps, thinking)
        else:
            asked = [asking.ask_step(recipe, prompt, steps, at, thinking=thinking) for at in range(len(steps))]
            found = list(await asyncio.gather(*(self._by_tokens(recipe.tokens, each) for each in asked)))
        return self._aggregated(candidate, [value for value, _, _ in found], min(mass for _, _, mass in found))

    async def _one_by_one(
        self, read: TokenRead, prompt: Prompt, steps: list[str], thinking: str
    ) -> list[tuple[float, str, float]]:
        """Each step is shown the labels of those before."""
        found: list[tuple[float, str, float]] = []
        for at in range(len(steps)):
            judged = [label for _, label, _ in found]
            found.append(await self._by_tokens(read, asking.ask_step(self.recipe, prompt, steps, at, judged, thinking)))
        return found

    async def _by_tokens(self, read: TokenRead, asked: Prompt) -> tuple[float, str, float]:
        """The expected value over labels, the likeliest label, and the labels' probability together."""
        reading = await read_labels(self.model, asked, [read.forced + label for label in read.labels])
        shares = dict(zip(read.labels, reading.probabilities, strict=True))
        value = sum(share * read.labels[label] for label, share in shares.items())
        return value, max(shares, key=shares.__getitem__), reading.mass

    async def _by_text(self, read: TextRead, asked: Prompt) -> Score:
        sampling = Sampling(read.temperature, read.top_p, max_tokens=read.max_tokens)
        replies = [reply.text for reply in await self.model.complete(asked, n=read.votes, sampling=sampling)]
        values = [value for value in map(read.value, replies) if value is not None]
        details = {"unread": len(replies) - len(values)}
        if not values:
            return Score.unscored(f"no value in {replies[0][:200]!r}" if replies else "no reply")
        return Score(sum(values) / len(values), replies[0], details)

    async def _thinking(self, thinking: Thinking, prompt: Prompt, steps: list[str]) -> str:
        asked = asking.ask_thinking(self.recipe, thinking, prompt, steps)
        sampling = Sampling(thinking.temperature, max_tokens=thinking.max_tokens)
        replies = await self.model.complete(asked, sampling=sampling)
        found = re.search(thinking.pattern, replies[0].text if replies else "")
        return found.group(1) if found else ""

    def _aggregated(self, candidate: Candidate, values: Sequence[float], mass: float | None = None) -> Score:
        stages = [stage for stage, text in candidate.stages.items() if text.strip()]
        details: dict[str, float] = dict(zip(stages, values, strict=True)) if len(values) == len(stages) else {}
        if mass is not None:
            details["label_mass"] = mass
        whole = {
            "mean": sum(values) / len(values), "last": values[-1], "min": min(values), "product": math.prod(values),
        }[self.aggregate]  # fmt: skip
        return Score(whole, details=details, resolution=self.model.resolution)


@dataclass(frozen=True)
class _Judge:
    """A pairwise recipe as a `PairwiseJudge`."""

    recipe: Recipe
    read: PairRead
    model: Model

    async def compare(self, prompt: Prompt, first: Candidate, second: Candidate, model: Model) -> Verdict:
        verdict = await self._ask(prompt, first, second)
        if not self.read.both_orders:
            return verdict
        turned = await self._ask(prompt, second, first)
        if verdict.winner is None or turned.winner is None or verdict.winner == turned.winner:
            return Verdict(None, "the verdict depends on the order, or one is missing")
        return verdict

    async def _ask(self, prompt: Prompt, *answers: Candidate) -> Verdict:
        texts = [asking.answer_of(self.recipe, asking.steps_of(self.recipe, answer)) for answer in answers]
        asked = asking.ask_pair(self.recipe, prompt, texts[0], texts[1])
        sampling = Sampling(self.read.temperature, self.read.top_p, max_tokens=self.read.max_tokens)
        replies = [reply.text for reply in await self.model.complete(asked, n=self.read.votes, sampling=sampling)]
        return Verdict(self.read.winner(replies), replies[0][:500] if replies else "no reply")
