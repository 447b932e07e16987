"""What the pocket model is taught: answering in three modes, and judging answers in the verifiers' own words.

A verdict over a whole caption is one bit for an AND over up to eight objects, too thin to learn from alone.
So a example marks, inside the text that is judged, whether each object is right (a process reward, as in
Math-Shepherd, arXiv 2312.08935); the loss asks for "yes" or "no" at those places too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerFast

from structdecode.core.schemas import BUILT_IN
from structdecode.pocket import world
from structdecode.pocket.world import Scene
from structdecode.verifiers import prompts

RIGHT, WRONG = "\ue000", "\ue001"
"""Marks behind a word whose position is asked for a verdict; they never reach the tokenizer."""

STAGES = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")


@dataclass(frozen=True)
class Example:
    """A prompt (with verdict marks), the reply that is learned, and the picture (None: text only)."""

    prompt: str
    reply: str
    scene: Scene | None


@dataclass(frozen=True)
class Attempt:
    """An answer to a scene's question that may be wrong: made by corruption, or sampled from the model."""

    scene: Scene
    stages: dict[str, str]

    @property
    def right(self) -> bool:
        return all(self.stages[name] == self.scene.stages[name].lower() for name in STAGES)

    def errors(self, name: str) -> int:
        """Wrong places in a stage, 0 where it is right."""
        marked = self.marked(name)
        return marked.count(WRONG) or int(self.stages[name] != self.scene.stages[name].lower())

    def marked(self, name: str) -> str:
        """A stage's text with a verdict mark behind each object or number."""
        text = self.stages[name]
        if name in ("CAPTION", "REASONING"):
            return _mark(text, self.scene.stages[name].lower())
        if name == "CONCLUSION":
            return text + (RIGHT if text == self.scene.answer else WRONG)
        return text


def _mark(text: str, truth: str) -> str:
    """Marks each sentence: right if it is true and nothing was left out since the sentence before."""
    true, done, marked = _sentences(truth), 0, []
    for sentence in _sentences(text):
        verdict = done < len(true) and true[done] == sentence
        done = true.index(sentence) + 1 if sentence in true else done + 1
        marked.append(f"{sentence}{RIGHT if verdict else WRONG}.")
    return " ".join(marked)


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in text.split(".") if part.strip()]


def true_attempt(scene: Scene) -> Attempt:
    return Attempt(scene, {name: text.lower() for name, text in scene.stages.items()})


def corrupted_attempt(scene: Scene, rng: np.random.Generator) -> Attempt:
    """A misread caption that reasoning follows, or reasoning that leaves a right caption."""
    stages = {name: text.lower() for name, text in scene.stages.items()}
    question, things = scene.question, world.corrupt(scene.things, rng)
    followed = world.reasoning(question, things).lower()
    answer = str(len(question.counted(things)))
    fault = rng.random()
    if fault < 0.7:
        stages["CAPTION"] = world.caption(things)
    elif fault < 0.78:
        followed, answer = stages["REASONING"], str((int(scene.answer) + rng.integers(1, 4)) % 9)
    elif fault < 0.86:
        other = replace(question, kind="subtract" if question.kind == "count" else "count")
        stages["SUMMARY"] = world.summary(other).lower()
        followed = world.reasoning(other, scene.things).lower()
        answer = str(len(other.counted(scene.things)))
    return Attempt(scene, {**stages, "REASONING": followed, "CONCLUSION": answer})


AttemptMaker = Callable[[Scene, np.random.Generator], Attempt]


def answering(scene: Scene, rng: np.random.Generator) -> Example:
    """Staged 76 %, chain of thought 14 %, direct 10 %."""
    draw = rng.random()
    mode = "llava-o1" if draw < 0.76 else "cot" if draw < 0.9 else "direct"
    reply = {"llava-o1": scene.response, "cot": scene.chain_of_thought, "direct": scene.answer}[mode]
    return Example(BUILT_IN[mode].instruction.format(question=scene.question.text), reply, scene)


def yes_no(attempt: Attempt, rng: np.random.Generator) -> Example:
    """`p-true` on one stage of an attempt, the earlier ones (after SUMMARY) as the hint."""
    at = int(rng.choice(len(STAGES), p=[0.04, 0.56, 0.2, 0.2]))
    name, hint = STAGES[at], {n: attempt.marked(n) for n in STAGES[1:at]}
    prompt = prompts.P_TRUE.format(
        question=attempt.scene.question.text, hint=prompts.hint_lines(hint),
        stage=name.lower(), text=attempt.marked(name),
    )  # fmt: skip
    right = all(attempt.stages[n] == attempt.scene.stages[n].lower() for n in (*STAGES[1:at], name))
    return Example(prompt, "yes" if right else "no", attempt.scene)


def pre_check(attempt: Attempt, rng: np.random.Generator) -> Example:
    """Does the reasoning follow from the caption? Without the picture."""
    things = world.parse_things(attempt.stages["CAPTION"]) or []
    seen = replace(attempt.scene, things=tuple(things))
    follows = Attempt(seen, attempt.stages)
    if rng.random() < 0.5:  # most attempts reason well from a wrong caption; make as many that do not
        other = corrupted_attempt(seen, rng) if things else follows
        follows = Attempt(seen, {**attempt.stages, "REASONING": other.stages["REASONING"]})
    prompt = prompts.PRE_CHECK.format(
        question=seen.question.text, hint=prompts.hint_lines({"CAPTION": attempt.stages["CAPTION"]}),
        stage="reasoning", text=follows.marked("REASONING"),
    )  # fmt: skip
    return Example(prompt, "incorrect" if follows.errors("REASONING") else "correct", None)


def comparison(first: Attempt, second: Attempt, rng: np.random.Generator) -> Example | None:
    """The pairwise judge on one stage or on whole answers; None where neither is better."""
    names = [n for n in STAGES if first.errors(n) != second.errors(n)]
    if not names:
        return None
    scene = first.scene
    whole = rng.random() < 0.3
    name = str(rng.choice(names))
    if whole:
        texts = [" ".join(f"<{n}> {a.marked(n)} </{n}>" for n in STAGES) for a in (first, second)]
        faults = [sum(a.errors(n) for n in STAGES) for a in (first, second)]
        rubric, hint = prompts.WHOLE_ANSWER_RUBRIC, ""
    else:
        texts, faults = [a.marked(name) for a in (first, second)], [a.errors(name) for a in (first, second)]
        rubric = prompts.RUBRICS[name]
        earlier = STAGES[1 : STAGES.index(name)]
        hint = prompts.hint_lines({n: scene.stages[n].lower() for n in earlier})
    if faults[0] == faults[1]:
        return None
    better = 1 if faults[0] < faults[1] else 2
    prompt = prompts.JUDGE.format(
        rubric=rubric, question=scene.question.text, hint=hint, first=texts[0], second=texts[1]
    )
    return Example(prompt, f"I choose response {better}", scene)


@dataclass(frozen=True)
class Encoded:
    """Token ids of a example and, at each position, the token that is to be predicted there (-100: none).

    ``targets`` is the reply's loss, ``marks`` that of the verdicts inside the prompt.
    """

    ids: list[int]
    targets: list[int]
    marks: list[int]
    scene: Scene | None


def encode(example: Example, tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """Applies the chat template, cuts the text at the verdict marks, and puts the targets in place."""
    image = [{"type": "image"}] if example.scene is not None else []
    text = str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": [*image, {"type": "text", "text": example.prompt}]}],
            add_generation_prompt=True,
            tokenize=False,
        )
    )
    verdict = {mark: tokenizer.convert_tokens_to_ids(word) for mark, word in ((RIGHT, "yes"), (WRONG, "no"))}
    ids: list[int] = []
    marks: list[int] = []
    for piece in re.split(f"([{RIGHT}{WRONG}])", text):
        if piece in verdict:
            marks[-1] = verdict[piece]
        else:
            piece_ids = tokenizer.encode(piece, add_special_tokens=False)
            ids += piece_ids
            marks += [-100] * len(piece_ids)
    reply = [*tokenizer.encode(example.reply, add_special_tokens=False), tokenizer.eos_token_id]
    targets = [-100] * (len(ids) - 1) + reply
    return Encoded(ids + reply[:-1], targets, marks + [-100] * (len(reply) - 1), example.scene)


def pixels(images: Sequence[Image.Image]) -> np.ndarray:
    """[B, 1, 1, 3, 64, 64]: what the processor makes of pictures of the world's own size."""
    arrays = np.stack([np.asarray(image, dtype=np.float32) for image in images])
    return ((arrays / 255.0 - 0.5) / 0.25).transpose(0, 3, 1, 2)[:, None, None]
