"""Recipes of released reward models, on tiny random checkpoints of their architectures: no released weights are here.

What a recipe gives is held against a transcription with transformers alone.
"""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from structdecode.backends.scripted import ScriptedBackend
from structdecode.backends.transformers.backend import TransformersBackend
from structdecode.backends.transformers.controls import Escaper, control_tokens
from structdecode.backends.transformers.loading import load_processor
from structdecode.core.engine import decode
from structdecode.core.errors import ConfigError, ModelError
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Prompt, Sampling, Schema, Score, Stage
from structdecode.strategies.stage_beam import StageBeam
from structdecode.testing import EchoModel, candidate, check_verifier, scripted
from structdecode.verifiers.recipes import OutcomeReward, ProcessReward
from structdecode.verifiers.recipes.recipe import Recipe, built_in
from tests import processes
from tests.families import hybrids, ordinary, others, parts, windows
from tests.families.checks import noise

from transformers import (  # isort: skip
    AutoConfig, AutoModelForImageTextToText, Gemma3ForSequenceClassification, Qwen2ForCausalLM,
    Qwen2ForSequenceClassification, Qwen3_5ForSequenceClassification,
)  # fmt: skip

QUESTION = "How many objects are there?"
STEPS = ("I will count the shapes.", "a red square and a blue circle.", "One and one is two.", "2")
OTHER = ("I will count.", "a red circle.", "One is one.", "1")
PROMPT = Prompt(QUESTION, [noise(56, 56)])
NAMES = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
CLOSED = "{% if message['role'] == 'assistant' %}<|eot|>END{% endif %}{% endfor %}{% if add_generation_prompt %}"
"""The end of a template that closes an answer's turn with the end of text, and maybe a line break behind it."""

Built = Callable[[], tuple[Any, Any]]


def roomy(build: Built, place: Path, closing: str | None = None) -> Path:
    """A family's checkpoint, with room for a rubric; ``closing``: what stands behind the end of an answer's turn."""
    torch.manual_seed(0)
    model, processor = build()
    model.config.get_text_config().max_position_embeddings = 16384
    if closing is not None:
        processor.chat_template = closed(processor.chat_template, closing)
    model.save_pretrained(place)
    processor.save_pretrained(place)
    return place


def closed(template: str, closing: str) -> str:
    return template.replace("{% endfor %}{% if add_generation_prompt %}", CLOSED.replace("END", closing))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return roomy(ordinary.qwen2_5_vl, tmp_path_factory.mktemp("qwen") / "Qwen-VL-PRM-3B")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ask(verifier: Any, *candidates: Candidate, model: Any = None, prompt: Prompt = PROMPT) -> list[Score]:
    return asyncio.run(verifier.score(prompt, candidates, model or EchoModel()))


def edited(folder: Path, name: str, **changed: Any) -> str:
    """A packaged recipe as a file of one's own; what is a mapping is changed in part."""
    content = yaml.safe_load(built_in()[name].read_text(encoding="utf-8"))
    for key, value in changed.items():
        content[key] = {**content[key], **value} if isinstance(value, Mapping) else value
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return str(path)


# ------------------------------------------------------------------ by transformers alone
def naive(place: Path, recipe: Recipe) -> tuple[Any, Any]:
    return (
        AutoModelForImageTextToText.from_pretrained(place).eval(),
        load_processor(place, **recipe.processor),
    )


def batch(processor: Any, messages: list[dict[str, Any]], *, generate: bool = True) -> Any:
    text = processor.apply_chat_template(messages, add_generation_prompt=generate, tokenize=False)
    shown = any(part["type"] == "image" for message in messages for part in message["content"])
    images = [[PROMPT.images[0].image]] if shown else None
    return processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False)


def logits(model: Any, processor: Any, messages: list[dict[str, Any]]) -> torch.Tensor:
    """[V] behind a chat."""
    with torch.no_grad():
        found: torch.Tensor = model(**batch(processor, messages)).logits[0, -1]
    return found


def greedy(model: Any, processor: Any, messages: list[dict[str, Any]], tokens: int) -> str:
    """What the model writes behind a chat."""
    asked = batch(processor, messages)
    with torch.no_grad():
        written = model.generate(**asked, do_sample=False, max_new_tokens=tokens)[0, asked["input_ids"].shape[1] :]
    return str(processor.tokenizer.decode(written)).partition("<|eot|>")[0].strip()


def behind(model: Any, processor: Any, messages: list[dict[str, Any]]) -> torch.Tensor:
    """[L, H]: the last hidden states of a finished chat."""
    with torch.no_grad():
        found = model(**batch(processor, messages, generate=False), output_hidden_states=True)
    states: torch.Tensor = found.hidden_states[-1][0]
    return states


def label_ids(processor: Any, *labels: str) -> list[int]:
    return [processor.tokenizer.encode(label, add_special_tokens=False)[0] for label in labels]


def said(role: str, text: str, *, picture: bool = False, last: bool = False) -> dict[str, Any]:
    words, image = [{"type": "text", "text": text}], [{"type": "image"}] if picture else []
    return {"role": role, "content": [*words, *image] if last else [*image, *words]}


def steps_of(score: Score) -> list[float]:
    return [score.details[name] for name in NAMES]


# ------------------------------------------------------------------ label tokens
def test_qwen_vl_prm_as_its_authors_ask_it(qwen: Path) -> None:
    """Transcribed: a turn a step, each answered with +, and the two labels' logits where the next answer would begin."""
    recipe = Recipe.load("qwen-vl-prm")
    model, processor = naive(qwen, recipe)
    labels = label_ids(processor, "+", "-")
    messages, expected = [said("system", recipe.system)], []
    for number, step in enumerate(STEPS):
        first = f"### Question:\n{QUESTION}\n\n### Solution Process:\n{step}"
        messages.append(said("user", step if number else first, picture=not number))
        expected.append(float(torch.softmax(logits(model, processor, messages)[labels], -1)[0]))
        messages.append(said("assistant", "+"))
    (score,) = ask(ProcessReward(str(qwen)), candidate(*STEPS))
    assert steps_of(score) == pytest.approx(expected, rel=1e-4)
    assert score.value == pytest.approx(float(np.mean(expected)), rel=1e-4) and 0 < score.details["label_mass"] < 1


def test_visualprm_has_the_picture_inside_its_first_turn(tmp_path: Path) -> None:
    place = roomy(ordinary.internvl, tmp_path / "VisualPRM-8B")
    recipe = Recipe.load("visualprm")
    model, processor = naive(place, recipe)
    labels = label_ids(processor, "+", "-")
    messages, expected = [said("system", recipe.system)], []
    for number, step in enumerate(STEPS):
        turn = said("user", step)
        if not number:
            texts = ("### Question:\n", f"{QUESTION}\n\n### Solution Process:\n{step}")
            before, after = ({"type": "text", "text": text} for text in texts)
            turn["content"] = [before, {"type": "image"}, after]
        messages.append(turn)
        expected.append(float(torch.softmax(logits(model, processor, messages)[labels], -1)[0]))
        messages.append(said("assistant", "+"))
    (score,) = ask(ProcessReward(str(place)), candidate(*STEPS))
    assert steps_of(score) == pytest.approx(expected, rel=1e-4)


def test_a_question_may_say_where_pictures_stand(tmp_path: Path) -> None:
    place = roomy(ordinary.internvl, tmp_path / "VisualPRM-8B")
    verifier = ProcessReward(str(place))
    (plain,), (named,) = (
        ask(verifier, candidate(*STEPS), prompt=Prompt(text, PROMPT.images)) for text in (QUESTION, "{images} {step}?")
    )
    assert plain.value != named.value and named.scored


def test_vrprm_thinks_with_the_picture_and_judges_without(tmp_path: Path) -> None:
    place = roomy(ordinary.qwen3_vl, tmp_path / "Qwen3-VRPRM-4B")
    recipe = Recipe.load("vrprm")
    model, processor = naive(place, recipe)
    solution = "\n".join(f"Step {number}: {step}" for number, step in enumerate(STEPS))
    task = f"[Question]\n{QUESTION}\n[Candidate Solution]\n{solution}\n"
    assert recipe.thinking is not None
    first = [said("system", recipe.thinking.system), said("user", task, picture=True, last=True)]
    thinking = greedy(model, processor, first, 12).replace("<|", "< |")  # control tokens in a text stay text
    ones, found = label_ids(processor, "1", "0"), []
    for number, step in enumerate(STEPS):
        judged = "\n".join(f"Step {at}: \\boxed{{{int(value > 0.5)}}}" for at, value in enumerate(found))
        asked = (
            f"{task}[Global Thinking]\n<think>{thinking}</think>\n[Previous Step Judgments]\n{judged or 'None'}\n"
            f"[Current Step]\nStep {number}: {step}\n"
            "Is the current step correct in context? Output only one token: 1 or 0."
        )
        behind_it = logits(model, processor, [said("system", recipe.system), said("user", asked)])
        found.append(float(torch.softmax(behind_it[ones], -1)[0]))
    verifier = ProcessReward(str(place), recipe=edited(tmp_path, "vrprm", thinking={"max_tokens": 12}))
    (score,) = ask(verifier, candidate(*STEPS))
    assert thinking and steps_of(score) == pytest.approx(found, rel=1e-4)
    (shorter,) = ask(verifier, candidate(*STEPS[:2]))
    assert shorter.scored and set(shorter.details) == {"SUMMARY", "CAPTION", "label_mass"}


# ------------------------------------------------------------------ replies
WRITTEN = (
    ("unified-reward-point", ordinary.qwen2_5_vl), ("unified-reward-point", ordinary.qwen3_vl),
    ("llava-critic-point", ordinary.llava_onevision),
)  # fmt: skip
PAIRS = (
    ("unified-reward-pair", ordinary.qwen2_5_vl), ("unified-reward-think-pair", ordinary.qwen2_5_vl),
    ("r1-reward", ordinary.qwen2_5_vl), ("llava-critic-r1", ordinary.qwen2_5_vl), ("llava-critic-r1", others.mllama),
    ("llava-critic-pair", ordinary.llava_onevision),
)  # fmt: skip


@pytest.mark.parametrize(("name", "build"), WRITTEN, ids=lambda value: getattr(value, "__name__", value))
def test_a_score_is_written(name: str, build: Built, tmp_path: Path) -> None:
    place, recipe = roomy(build, tmp_path / "model"), Recipe.load(name)
    model, processor = naive(place, recipe)
    asked = recipe.question.replace("{question}", QUESTION).replace("{answer}", "\n\n".join(STEPS))
    written = greedy(model, processor, [said("user", asked, picture=True)], 8)
    verifier = OutcomeReward(str(place), recipe=edited(tmp_path, name, text={"max_tokens": 8}))
    assert ask(verifier, candidate(*STEPS))[0].reason == f"no value in {written!r}"
    values = {"pattern": r"(?s)\A(.+)\Z", "values": {written: 0.25}, "max_tokens": 8}
    verifier = OutcomeReward(str(place), recipe=edited(tmp_path, name, text=values))
    assert ask(verifier, candidate(*STEPS))[0] == Score(0.25, written, {"unread": 0})


@pytest.mark.parametrize(("name", "build"), PAIRS, ids=lambda value: getattr(value, "__name__", value))
def test_the_better_of_two_is_written(name: str, build: Built, tmp_path: Path) -> None:
    """In both orders; which is which is known by what the model writes behind the transcribed prompts."""
    place, recipe = roomy(build, tmp_path / "model"), Recipe.load(name)
    model, processor = naive(place, recipe)
    answers = ["\n\n".join(steps) for steps in (STEPS, OTHER)]
    replies = []
    for first, second in (answers, answers[::-1]):
        asked = recipe.question.replace("{question}", QUESTION).replace("{first}", first).replace("{second}", second)
        replies.append(greedy(model, processor, [said("user", asked, picture=True)], 24))
    assert replies[0] != replies[1]
    pair = {"pattern": r"(?s)\A(.+)\Z", "max_tokens": 24}
    for better in (0, 1):
        said_so = {replies[0]: better + 1, replies[1]: 2 - better}
        verifier = OutcomeReward(str(place), recipe=edited(tmp_path, name, pair={**pair, "values": said_so}))
        scores = ask(verifier, candidate(*STEPS, path=(0,)), candidate(*OTHER, path=(1,)))
        assert [score.value for score in scores] == [1.0 - better, float(better)]
        assert all(score.details["unparseable"] == 0 for score in scores)
    one_sided = edited(tmp_path, name, pair={**pair, "values": dict.fromkeys(replies, 1)})
    scores = ask(
        OutcomeReward(str(place), recipe=one_sided), candidate(*STEPS, path=(0,)), candidate(*OTHER, path=(1,))
    )
    assert all(score.details["unparseable"] == 1 for score in scores)  # always the first: no verdict
    drawn = edited(tmp_path, name, pair={**pair, "values": dict.fromkeys(replies, 1), "both_orders": False})
    scores = ask(OutcomeReward(str(place), recipe=drawn), candidate(*STEPS, path=(0,)), candidate(*OTHER, path=(1,)))
    assert sorted(score.details["wins"] for score in scores) == [0, 1]


def test_replies_to_a_question_are_counted(qwen: Path, tmp_path: Path) -> None:
    voted = edited(tmp_path, "unified-reward-point", text={"max_tokens": 3, "temperature": 1.0, "votes": 5})
    model = EchoModel()
    ask(OutcomeReward(str(qwen), recipe=voted), candidate(*STEPS), model=model)
    assert model.charged.generated_tokens == 15


# ------------------------------------------------------------------ heads
def with_head(place: Path, width: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    weight, bias = torch.randn(1, width), torch.randn(1)
    save_file({"v_head.summary.weight": weight, "v_head.summary.bias": bias}, place / "value_head.safetensors")
    return weight, bias


@pytest.mark.parametrize("closing", [None, "", "\n"], ids=["open", "end of text", "line break"])
def test_skywork_reads_its_head_behind_the_closed_turn(closing: str | None, tmp_path: Path) -> None:
    place = roomy(ordinary.qwen2_5_vl, tmp_path / "Skywork-VL-Reward-7B", closing)
    weight, bias = with_head(place)
    model, processor = naive(place, Recipe.load("skywork-vl-reward"))
    expected = []
    for steps in (STEPS, STEPS[:2], OTHER):
        chat = [said("user", QUESTION, picture=True), said("assistant", "\n\n".join(steps))]
        expected.append(float(weight @ behind(model, processor, chat)[-1] + bias))
    verifier = OutcomeReward(str(place))
    scores = ask(verifier, candidate(*STEPS), candidate(*STEPS[:2]), candidate(*OTHER))
    assert [score.value for score in scores] == pytest.approx(expected, rel=1e-4)
    assert [ask(verifier, candidate(*STEPS))[0].value] == pytest.approx(expected[:1], rel=1e-4)


@pytest.mark.parametrize("closing", [None, "", "\n"], ids=["open", "end of text", "line break"])
@pytest.mark.parametrize(
    ("kind", "build"),
    [(Gemma3ForSequenceClassification, windows.gemma3), (Qwen3_5ForSequenceClassification, hybrids.qwen3_5)],
    ids=["gemma3", "qwen3_5"],
)
def test_a_sequence_classifier_with_pictures(kind: Any, build: Built, closing: str | None, tmp_path: Path) -> None:
    """On the engine's specification, which Gemma's windows and Qwen's linear attention need; held against transformers'
    own class.
    """
    torch.manual_seed(0)
    model, processor = build()
    model.config.num_labels, model.config.text_config.max_position_embeddings = 1, 8192
    classifier = kind(model.config).eval()
    classifier.model.load_state_dict(model.model.state_dict())
    torch.nn.init.normal_(classifier.score.weight)
    if closing is not None:
        processor.chat_template = closed(processor.chat_template, closing)
    classifier.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    expected = []
    for steps in (STEPS, OTHER):
        chat = [said("user", QUESTION, picture=True), said("assistant", "\n\n".join(steps))]
        with torch.no_grad():
            expected.append(float(classifier(**batch(processor, chat, generate=False)).logits))
    verifier = OutcomeReward(str(tmp_path), recipe="sequence-classification")
    scores = ask(verifier, candidate(*STEPS), candidate(*OTHER))
    assert [score.value for score in scores] == pytest.approx(expected, rel=1e-4)
    assert verifier.__dict__["_loaded"].backend.engine == "plain"


def test_what_a_template_puts_before_a_finished_answer_is_read_too(tmp_path: Path) -> None:
    """An empty thought, say. One that begins a finished answer otherwise than one to come has no values."""
    place = roomy(ordinary.qwen2_5_vl, tmp_path / "Skywork-VL-Reward-7B", "\n")
    weight, bias = with_head(place)
    template = (place / "chat_template.jinja").read_text()
    begun = "<|{{ message['role'] }}|>{% if message['role'] == 'assistant' %}<think></think>{% endif %}"
    (place / "chat_template.jinja").write_text(template.replace("<|{{ message['role'] }}|>", begun))
    model, processor = naive(place, Recipe.load("skywork-vl-reward"))
    chat = [said("user", QUESTION, picture=True), said("assistant", "\n\n".join(STEPS))]
    expected = float(weight @ behind(model, processor, chat)[-1] + bias)
    assert "<think></think>" in processor.apply_chat_template(chat)
    assert ask(OutcomeReward(str(place)), candidate(*STEPS))[0].value == pytest.approx(expected, rel=1e-4)
    (place / "chat_template.jinja").write_text(template.replace("<|assistant|>{% endif %}", "<|user|>{% endif %}"))
    (score,) = ask(OutcomeReward(str(place)), candidate(*STEPS))
    assert score.reason == "the model's chat template writes a finished answer's turn otherwise than one to come"


def text_model(kind: Any, place: Path, template: str = parts.TEMPLATE, **config: Any) -> tuple[Any, Any]:
    """A tiny Qwen2 for texts alone, with a marker among its tokens."""
    torch.manual_seed(0)
    tok = parts.tokenizer("<extra_0>")
    tok.chat_template = template
    settings = AutoConfig.for_model("qwen2", **{**parts.text(tok), "max_position_embeddings": 8192, **config})
    model = kind(settings).eval()
    model.save_pretrained(place)
    tok.save_pretrained(place)
    return model, tok


def test_a_sequence_classifier_for_texts(tmp_path: Path) -> None:
    model, tok = text_model(Qwen2ForSequenceClassification, tmp_path, num_labels=1)
    recipe = edited(tmp_path, "sequence-classification", images="none")
    text = f"<|bos|><|user|>{QUESTION}<|assistant|>" + "\n\n".join(STEPS)
    with torch.no_grad():
        expected = float(model(tok(text, return_tensors="pt", add_special_tokens=False)["input_ids"]).logits)
    (score,) = ask(OutcomeReward(str(tmp_path), recipe=recipe), candidate(*STEPS))
    assert score.value == pytest.approx(expected, rel=1e-4)


def math_prm(place: Path) -> tuple[Any, Callable[[torch.Tensor], torch.Tensor]]:
    """A checkpoint as the released ones are, with code of its own and no output layer. Its tokenizer, and the
    probability that a step is right behind each of ids [1, L].
    """
    model, tok = text_model(Qwen2ForCausalLM, place)
    weights = load_file(place / "model.safetensors")
    torch.manual_seed(2)
    head = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    del weights["lm_head.weight"]
    save_file({**weights, **{f"score.{k}": v for k, v in head.state_dict().items()}}, place / "model.safetensors")
    config = json.loads((place / "config.json").read_text())
    code = {
        "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig",
        "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel",
    }
    (place / "config.json").write_text(json.dumps({**config, "auto_map": code}))
    (place / "modeling_qwen2_rm.py").write_text("raise SystemExit('it ran')")

    def right(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[-1][0]
            return torch.softmax(head(states), -1)[:, 1]

    return tok, right


def marked_text(steps: Sequence[str]) -> str:
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    return f"<|bos|><|system|>{system}<|user|>{QUESTION}<|assistant|>" + "".join(f"{step}<extra_0>" for step in steps)


def test_qwen_math_prm_reads_each_step_at_its_marker(tmp_path: Path) -> None:
    """Code that comes with the checkpoint is not run: transformers' own Qwen2 has the hidden states."""
    place = tmp_path / "Qwen2.5-Math-PRM-7B"
    tok, right = math_prm(place)
    ids = tok(marked_text(STEPS), return_tensors="pt", add_special_tokens=False)["input_ids"]
    found = right(ids)[ids[0] == tok.convert_tokens_to_ids("<extra_0>")]
    (score,) = ask(ProcessReward(str(place)), candidate(*STEPS))
    assert steps_of(score) == pytest.approx(found.tolist(), rel=1e-4)
    assert score.value == pytest.approx(float(found.mean()), rel=1e-4)
    (marked,) = ask(ProcessReward(str(place)), candidate("One<extra_0> two", "2"))
    assert len(marked.details) == 2  # a marker in an answer is a text


# ------------------------------------------------------------------ in a search
SHORT = Schema("short", tuple(Stage.tagged(name, sampling=Sampling(1.2, max_tokens=12)) for name in NAMES))


def tokens_in_common(rows: Sequence[Sequence[int]]) -> int:
    """Tokens of the tree that rows make: what any way to read them all has to compute."""
    return len({tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)})


def prompt_ids(processor: Any, messages: list[dict[str, Any]], **how: bool) -> list[int]:
    found: list[int] = batch(processor, messages, **how)["input_ids"][0].tolist()
    return found


def turns(recipe: Recipe, steps: Sequence[str]) -> list[dict[str, Any]]:
    first = f"### Question:\n{QUESTION}\n\n### Solution Process:\n{steps[0]}"
    messages = [said("system", recipe.system), said("user", first, picture=True)]
    for step in steps[1:]:
        messages += [said("assistant", "+"), said("user", step)]
    return messages


@pytest.mark.parametrize("name", ["qwen-vl-prm", "skywork-vl-reward"])
def test_a_stage_beam_pays_for_new_text_alone(name: str, qwen: Path) -> None:
    """One checkpoint as generator and as verifier. The picture is encoded once; shared stages are read once."""
    recipe = Recipe.load(name)
    with_head(qwen)
    verifier = (ProcessReward if recipe.level == "step" else OutcomeReward)(str(qwen), recipe=name)
    strategy = StageBeam(candidates=4, beams=2, verifier=verifier)
    with TransformersBackend.load(qwen) as backend:
        result = decode(PROMPT, backend=backend, schema=SHORT, strategy=strategy, seed=3)
    used, (_, processor) = result.usage_by_part["verifier"], naive(qwen, recipe)
    made = {tuple(event["path"]): event for event in result.trace.events if event["kind"] == "candidate"}
    shown = Escaper(control_tokens(processor, AutoConfig.from_pretrained(qwen)))
    rows = []
    for path in made:
        texts = [made[path[:end]]["text"] for end in range(1, len(path) + 1)]
        steps = [shown(text) for text in texts if text.strip()]
        if recipe.level == "step":
            rows.append(prompt_ids(processor, turns(recipe, steps)))
            rows += [prompt_ids(processor, turns(recipe, steps[:end])) for end in range(1, len(steps))]
        else:
            chat = [said("user", QUESTION, picture=True), said("assistant", "\n\n".join(steps))]
            rows.append(prompt_ids(processor, chat, generate=False))
    assert len(made) > 20 and used.images_encoded == 1 and used.generated_tokens == 0
    assert tokens_in_common(rows) <= used.prefilled_tokens <= 1.2 * tokens_in_common(rows)


def test_steps_at_markers_are_read_once(tmp_path: Path) -> None:
    """A verifier for texts alone in a search with pictures."""
    place = tmp_path / "Qwen2.5-Math-PRM-7B"
    tok, _ = math_prm(place)
    verifier = ProcessReward(str(place))
    strategy = StageBeam(candidates=3, beams=2, verifier=verifier)
    result = decode(PROMPT, backend=ScriptedBackend(scripted), strategy=strategy)
    used = result.usage_by_part["verifier"]
    made = {tuple(event["path"]): event for event in result.trace.events if event["kind"] == "candidate"}
    read = {tuple(made[path[:end]]["text"] for end in range(1, len(path) + 1)) for path in made}
    new = sum(len(tok.encode(f"{steps[-1]}<extra_0>", add_special_tokens=False)) for steps in read)
    assert all(ranked.score.scored for ranked in result.candidates) and used.images_encoded == 0
    template = len(tok.encode(marked_text([]), add_special_tokens=False))
    assert len(read) > 8 and used.prefilled_tokens == new + template


def test_one_candidate_that_does_not_fit_costs_the_others_nothing(qwen: Path) -> None:
    with_head(qwen)
    long, short = candidate("word " * 20000), candidate(*STEPS)
    for verifier in (OutcomeReward(str(qwen), recipe="skywork-vl-reward"), ProcessReward(str(qwen))):
        first, second, third = ask(verifier, long, short, Candidate())
        assert second.scored and second.value == pytest.approx(ask(verifier, short)[0].value, rel=1e-4)
        assert "context" in first.reason and third.reason == "nothing is written yet"


def test_verifiers_of_a_checkpoint_share_its_weights(qwen: Path) -> None:
    one, other = ProcessReward(str(qwen)), ProcessReward(str(qwen), aggregate="min")
    (mean,), (least,) = ask(one, candidate(*STEPS)), ask(other, candidate(*STEPS))
    assert least.value == min(steps_of(least)) == pytest.approx(min(steps_of(mean)), rel=1e-4)
    assert one.__dict__["_loaded"] is other.__dict__["_loaded"]
    held = weakref.ref(one.__dict__["_loaded"])
    again = pickle.loads(pickle.dumps(one))
    assert again == one and "_loaded" not in again.__dict__
    del other
    gc.collect()
    assert held() is not None
    one.close()
    gc.collect()
    assert held() is None and ask(one, candidate(*STEPS))[0].value == pytest.approx(mean.value, rel=1e-4)


def test_by_its_registered_name(qwen: Path) -> None:
    assert build("verifiers", "process-reward", {"model": str(qwen)}) == ProcessReward(str(qwen), recipe="qwen-vl-prm")
    both = build("verifiers", "ensemble", {"members": {"a": {"process-reward": {"model": str(qwen)}}, "b": "log-prob"}})
    assert ask(both, candidate(*STEPS), candidate(*OTHER))[0].scored


def run(*arguments: object, code: int = 0) -> Any:
    done = processes.run(*arguments, timeout=120)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done


def test_from_the_command_line(qwen: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    PROMPT.images[0].image.save(picture)
    asked = (
        "generate",
        "--image",
        picture,
        "--question",
        QUESTION,
        "--strategy",
        "stage-beam",
        "--set",
        "candidates=2",
    )
    named = ("--verifier", "process-reward", "--set", f"verifier.model={qwen}", "--json")
    done = json.loads(run(*asked, *named).stdout)
    assert done["verifier"] == "process-reward"
    assert done["usage"]["images_encoded"] == 2 and done["usage"]["flops"] > 0
    assert all(0 < each["score"] < 1 for each in done["candidates"])
    wrong = run(*asked, "--verifier", "process-reward", "--set", f"verifier.model={tmp_path}/none", code=2)
    assert "no recipe names model" in wrong.stderr


def test_it_keeps_the_laws_of_verifiers(qwen: Path) -> None:
    with_head(qwen)
    check_verifier(ProcessReward(str(qwen)), prompt=PROMPT)
    check_verifier(OutcomeReward(str(qwen), recipe="skywork-vl-reward"), prompt=PROMPT)


# ------------------------------------------------------------------ checkpoints that do not fit
def test_a_checkpoint_that_does_not_fit_is_named_in_one_line(qwen: Path, tmp_path: Path) -> None:
    def said_of(verifier: Any) -> str:
        with pytest.raises((ConfigError, ModelError)) as raised:
            ask(verifier, candidate(*STEPS))
        assert "\n" not in str(raised.value)
        return str(raised.value)

    other = roomy(others.mllama, tmp_path / "mllama")
    assert "its architecture is 'mllama', the recipe's qwen2_5_vl" in said_of(ProcessReward(str(other), "qwen-vl-prm"))
    text_model(Qwen2ForCausalLM, tmp_path / "text")
    assert "its architecture is 'qwen2_5_vl', the recipe's qwen2" in said_of(
        ProcessReward(str(qwen), "qwen2.5-math-prm")
    )
    assert "no weights 'score.0.weight' in model.safetensors" in said_of(
        ProcessReward(str(tmp_path / "text"), "qwen2.5-math-prm")
    )
    bare = roomy(ordinary.qwen2_5_vl, tmp_path / "bare")
    assert "value_head.safetensors" in said_of(OutcomeReward(str(bare), "skywork-vl-reward"))
    with_head(bare, width=16)
    assert "(1, 16), which does not fit 32" in said_of(OutcomeReward(str(bare), "skywork-vl-reward"))
    with_head(bare)
    second = edited(tmp_path, "skywork-vl-reward", head={"output": 1})
    assert "its head has 1 outputs, the recipe reads number 1" in said_of(OutcomeReward(str(bare), second))
    (bare / "value_head.safetensors").write_bytes(b"no weights")
    assert "value_head.safetensors: " in said_of(OutcomeReward(str(bare), "skywork-vl-reward"))
    (tmp_path / "empty").mkdir()
    assert "no config.json" in said_of(ProcessReward(str(tmp_path / "empty"), "qwen-vl-prm"))


def test_a_checkpoint_that_changed_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    place = roomy(ordinary.qwen2_5_vl, tmp_path / "Skywork-VL-Reward-7B")
    with_head(place)
    verifier = OutcomeReward(str(place))
    weights = load_file(place / "value_head.safetensors")
    save_file({name: 2 * weight for name, weight in weights.items()}, place / "value_head.safetensors")
    with pytest.raises(ConfigError, match="has changed since this verifier was made"):
        ask(verifier, candidate(*STEPS))
    assert verifier != OutcomeReward(str(place)) and ask(OutcomeReward(str(place)), candidate(*STEPS))[0].scored


def test_a_checkpoint_by_its_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub's client keeps it; nothing is downloaded."""
    kept = tmp_path / "models--Skywork--Skywork-VL-Reward-7B"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    place = roomy(ordinary.qwen2_5_vl, kept / "snapshots" / ("0" * 40), "\n")
    with_head(place)
    (here,) = ask(OutcomeReward(str(place), "skywork-vl-reward"), candidate(*STEPS))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    (there,) = ask(OutcomeReward("Skywork/Skywork-VL-Reward-7B"), candidate(*STEPS))
    assert there.scored and there.value == pytest.approx(here.value, rel=1e-5)


def test_the_shards_of_a_large_checkpoint_hold_the_head(tmp_path: Path) -> None:
    place = tmp_path / "model"
    model, _ = text_model(Qwen2ForSequenceClassification, place, num_labels=1)
    recipe = edited(tmp_path, "sequence-classification", images="none")
    (whole,) = ask(OutcomeReward(str(place), recipe), candidate(*STEPS))
    (place / "model.safetensors").unlink()
    model.save_pretrained(place, max_shard_size="20KB")
    assert len(list(place.glob("model-*.safetensors"))) > 2
    (parted,) = ask(OutcomeReward(str(place), recipe), candidate(*STEPS))
    assert parted.value == pytest.approx(whole.value, rel=1e-5)
