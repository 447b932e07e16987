from __future__ import annotations

import asyncio
import gc
import itertools
import json
import math
import pickle
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from structdecode.backends.scripted import ScriptedBackend
from structdecode.backends.transformers.backend import TransformersBackend
from structdecode.backends.transformers.flops import model_cost
from structdecode.core.budget import Budget, Usage
from structdecode.core.engine import decode
from structdecode.core.errors import BudgetSpent, ConfigError, ModelError
from structdecode.core.schemas import LLAVA_O1
from structdecode.core.settings import build
from structdecode.core.types import Candidate, Message, Prompt, Score, Span
from structdecode.pocket import world
from structdecode.strategies.best_of_n import BestOfN
from structdecode.strategies.stage_beam import StageBeam
from structdecode.testing import EchoModel, candidate, check_verifier, scripted
from structdecode.training.reward_model.model import from_base, save
from structdecode.training.rewards import as_reward
from structdecode.verifiers import own_model
from structdecode.verifiers.reward_model import RewardModel, scoring
from structdecode.verifiers.reward_model.collate import Mark, StepCollator, StepExample, chat
from structdecode.verifiers.reward_model.config import FILE, HEAD, RewardConfig
from structdecode.verifiers.reward_model.network import load

SCENE = next(world.scenes("test", 0))
PROMPT = Prompt(SCENE.question.text, [SCENE.render()])
TEXTS = list(SCENE.stages.values())


@pytest.fixture(scope="module", params=[False, True], ids=["head", "likelihood"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model with a head that nobody trained."""
    likelihood = request.param
    model, processor = from_base("pocket", likelihood=likelihood)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.value.weight, std=0.1)
    place = tmp_path_factory.mktemp("reward") / "model"
    save(model, processor, RewardConfig.of(LLAVA_O1, likelihood=likelihood), place)
    return place


def ask(verifier: RewardModel, *candidates: Candidate, prompt: Prompt = PROMPT, model: Any = None) -> list[Score]:
    return asyncio.run(verifier.score(prompt, candidates, model or EchoModel()))


def test_it_keeps_the_laws_of_verifiers(directory: Path) -> None:
    check_verifier(RewardModel(str(directory)))


def test_partial_and_whole_candidates_have_one_value_a_stage(directory: Path) -> None:
    verifier = RewardModel(str(directory))
    whole, begun = ask(verifier, candidate(*TEXTS), candidate(*TEXTS[:2]))
    assert list(whole.details) == ["SUMMARY", "CAPTION", "REASONING", "CONCLUSION"]
    assert begun.details == pytest.approx({name: whole.details[name] for name in ("SUMMARY", "CAPTION")}, rel=1e-4)
    assert whole.value == whole.details["CONCLUSION"] and begun.value == begun.details["CAPTION"]
    assert whole.reason == f"CONCLUSION: {whole.value:.3f}"
    assert all(0 < value < 1 for value in whole.details.values())
    alone = [ask(verifier, candidate(*texts))[0].value for texts in (TEXTS, TEXTS[:2])]
    assert alone == pytest.approx([whole.value, begun.value], rel=1e-4)
    other = ask(verifier, candidate(*TEXTS), prompt=Prompt(PROMPT.question, [next(world.scenes("test", 9)).render()]))
    assert other[0].value != pytest.approx(whole.value, rel=1e-4)
    history = Prompt(PROMPT.question, PROMPT.images, [Message("user", "How many?"), Message("assistant", "2")])
    assert ask(verifier, candidate(*TEXTS), prompt=history)[0].value != pytest.approx(whole.value, rel=1e-4)


@pytest.mark.parametrize("aggregate", ["last", "min", "product"])
def test_aggregates(directory: Path, aggregate: Any) -> None:
    (found,) = ask(RewardModel(str(directory), aggregate), candidate(*TEXTS))
    values = list(found.details.values())
    assert found.value == {"last": values[-1], "min": min(values), "product": math.prod(values)}[aggregate]


def test_an_open_stage_is_read_where_it_stands(directory: Path) -> None:
    """As the sentence beam has them: a stage of two spans, the second one not closed."""
    begun = candidate(TEXTS[0]).extended(Span("CAPTION", "a1 red square.", closed=False), 0)
    open_, closed = ask(RewardModel(str(directory)), begun, candidate(TEXTS[0], "a1 red square."))
    assert list(open_.details) == list(closed.details) and open_.value != closed.value


def test_what_cannot_be_scored_is_named_and_costs_the_others_nothing(directory: Path) -> None:
    foreign = Candidate((Span("PLAN", "first"),), (0,))
    long = candidate(TEXTS[0], "a1 red square. " * 200)
    image = candidate(TEXTS[0], "an <|image|> here")
    fine, *rest, as_text = ask(RewardModel(str(directory)), candidate(*TEXTS), foreign, Candidate(), long, image)
    assert fine.value == pytest.approx(ask(RewardModel(str(directory)), candidate(*TEXTS))[0].value, rel=1e-4)
    assert [score.value for score in rest] == [None] * 3
    reasons = [score.reason for score in rest]
    assert "not on PLAN" in reasons[0] and reasons[1] == "nothing is written yet"
    assert "the model's context is 512" in reasons[2]
    assert as_text.scored, "a token that stands for a picture is text in an answer"
    assert [s.value for s in ask(RewardModel(str(directory)), foreign)] == [None]


def test_it_reads_what_was_trained(directory: Path) -> None:
    """Piece by piece on the engine: the values of the network that training ran over whole rows."""
    network, processor, config = load(directory)
    texts = [config.written(name, text) for name, text in SCENE.stages.items()]
    ends = list(itertools.accumulate(len(text) + 1 for text in texts))
    marks = tuple(Mark(end - 1, None, kind) for kind, end in enumerate(ends))
    asked = chat(config.asked(PROMPT), [1], " ".join(texts))
    row = StepExample("0", asked, tuple(picture.image for picture in PROMPT.images), "0", marks, 0)
    batch = StepCollator(processor)([row])
    places = (batch["kinds"][0] >= 0).nonzero().flatten()
    with torch.no_grad():
        logits = network(**{k: v for k, v in batch.items() if k not in ("labels", "kinds", "rows")})["logits"]
    verifier = RewardModel(str(directory))
    (found,) = ask(verifier, candidate(*TEXTS))
    assert list(found.details.values()) == pytest.approx(torch.sigmoid(logits[0, places]).tolist(), rel=1e-4)
    ids = batch["input_ids"][0].tolist()
    codec = verifier.__dict__["_loaded"].backend.codec
    pieces = codec.pieces([texts[0], *(f" {text}" for text in texts[1:])])
    assert [token for piece in pieces for token in piece] == ids[-sum(map(len, pieces)) - 1 : -1], (
        "the row's own tokens"
    )


def tokens_of(text: str) -> int:
    return len(from_base("pocket")[1].tokenizer.encode(text, add_special_tokens=False))


def test_what_candidates_share_is_computed_once_and_all_is_charged(directory: Path) -> None:
    model = EchoModel()
    other = [*TEXTS[:2], "another reasoning.", TEXTS[3]]
    ask(RewardModel(str(directory)), candidate(*TEXTS), candidate(*TEXTS[:2]), candidate(*other), model=model)
    parts = [f"<{s}> {t} </{s}>" for s, t in zip(SCENE.stages, TEXTS, strict=True)]
    asked = f"<|bos|><|user|><|image|>{PROMPT.question}<|assistant|>"
    fresh = tokens_of(f" <REASONING> {other[2]} </REASONING> {parts[3]}")
    tokens = tokens_of(asked + " ".join(parts)) + fresh
    used = model.charged
    assert used == Usage(
        prefilled_tokens=tokens, images_encoded=1, model_calls=4, cached_tokens=used.cached_tokens, flops=used.flops
    )
    network = from_base("pocket", likelihood=json.loads((directory / FILE).read_text())["likelihood"])[0].backbone
    cost = model_cost(network)
    if json.loads((directory / FILE).read_text())["likelihood"]:
        assert used.flops == pytest.approx(cost.per_token * tokens + cost.picture(*SCENE.render().size))
    assert used.flops > 1e6


def test_a_stage_beam_pays_for_new_text_alone(directory: Path) -> None:
    """Of a candidate that has grown its new stage is read; the picture once."""
    verifier = RewardModel(str(directory))
    with TransformersBackend.load("pocket", check=False) as backend:
        result = decode(PROMPT, backend=backend, strategy=StageBeam(candidates=4, beams=2, verifier=verifier), seed=3)
    used = result.usage_by_part["verifier"]
    made = {tuple(event["path"]): event for event in result.trace.events if event["kind"] == "candidate"}
    read = {tuple(made[path[:end]]["text"] for end in range(1, len(path) + 1)): made[path]["stage"] for path in made}
    new = sum(tokens_of(f" <{stage}> {texts[-1]} </{stage}>") for texts, stage in read.items())
    template = tokens_of(f"<|bos|><|user|><|image|>{PROMPT.question}<|assistant|>")
    assert len(read) > 5 and used.images_encoded == 1
    assert used.prefilled_tokens == new + template
    assert used.model_calls == 4


def values(scores: list[Score]) -> list[float]:
    return [-1.0 if score.value is None else score.value for score in scores]


def test_many_questions_beside_each_other_pay_each_for_its_own(directory: Path) -> None:
    verifier = RewardModel(str(directory))
    scenes = [next(world.scenes("test", number)) for number in range(4)]
    prompts = [Prompt(scene.question.text, [scene.render()]) for scene in scenes]
    prompts.append(Prompt("No picture: how many?"))
    asked = [[candidate(*TEXTS), candidate(*TEXTS[:2])], [Candidate()], *[[candidate(*TEXTS)]] * 3]
    asked[3] = [Candidate((Span("PLAN", "first"),), (0,)), candidate(*TEXTS[:3])]

    async def together(models: list[EchoModel]) -> list[Any]:
        calls = [verifier.score(*each) for each in zip(prompts, asked, models, strict=True)]
        return await asyncio.gather(*calls, return_exceptions=True)

    alone = [EchoModel() for _ in prompts]
    expected = [ask(verifier, *each, prompt=prompt, model=model) for each, prompt, model in zip(asked, prompts, alone, strict=True)]  # fmt: skip
    models = [EchoModel() for _ in prompts]
    found = asyncio.run(together(models))
    assert [model.charged for model in models] == [model.charged for model in alone]
    for scores, others in zip(found, expected, strict=True):
        assert values(scores) == pytest.approx(values(others), rel=1e-4)
        assert [score.reason for score in scores] == [score.reason for score in others]

    poor = [EchoModel(budget=Budget(prefill_tokens=10)) if number == 2 else EchoModel() for number in range(5)]
    some = asyncio.run(together(poor))
    assert isinstance(some[2], BudgetSpent) and poor[2].charged.prefilled_tokens == 0, "it takes no part"
    for number in (0, 1, 3, 4):
        assert poor[number].charged == alone[number].charged
        assert values(some[number]) == pytest.approx(values(found[number]), rel=1e-4)


def search(strategy: Any, budget: Budget | None = None) -> Any:
    return decode(PROMPT, backend=ScriptedBackend(scripted), strategy=strategy, budget=budget)


def test_a_search_pays_for_it(directory: Path) -> None:
    verifier = RewardModel(str(directory))
    best, beam = search(BestOfN(n=3, verifier=verifier)), search(StageBeam(candidates=2, verifier=verifier))
    assert best.usage_by_part["verifier"].model_calls == 4 and best.usage_by_part["verifier"].images_encoded == 1
    assert beam.usage_by_part["verifier"].model_calls == 4
    assert all(ranked.score.scored for ranked in (*best.candidates, *beam.candidates))
    free, spent = best.usage_by_part["generator"], best.usage_by_part["verifier"].prefilled_tokens
    enough, short = (Budget(prefill_tokens=free.prefilled_tokens + spent - less) for less in (0, 1))
    assert search(BestOfN(n=3, verifier=verifier), enough).stopped_by is None
    stopped = search(BestOfN(n=3, verifier=verifier), short)
    assert stopped.stopped_by == "prefill_tokens" and len(stopped.candidates) == 3
    assert stopped.candidates[0].score == Score.unscored("budget spent: prefill_tokens")
    assert stopped.usage_by_part["verifier"].prefilled_tokens < spent
    assert best.usage_by_part["verifier"].flops == best.own_models.flops > 1e6
    calls = search(BestOfN(n=3, verifier=verifier), Budget(model_calls=free.model_calls))
    assert calls.stopped_by == "model_calls" and calls.usage.model_calls == free.model_calls


def test_as_a_reward_it_needs_no_backend(directory: Path) -> None:
    answer = " ".join(f"<{name}> {text} </{name}>" for name, text in SCENE.stages.items())
    logged: dict[str, float] = {}
    reward = as_reward(RewardModel(str(directory)), sync=True)
    (value,) = reward([PROMPT.question], [answer], log_metric=logged.__setitem__, images=[[SCENE.render()]])
    assert value == pytest.approx(ask(RewardModel(str(directory)), candidate(*TEXTS))[0].value, rel=1e-4)
    assert logged["rewards/reward-model/prefilled_tokens"] > 50
    poor = as_reward(RewardModel(str(directory)), sync=True, budget=Budget(model_calls=0))
    assert poor([PROMPT.question], [answer]) == [None]


def test_the_model_is_loaded_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    once = scoring.load

    def counted(path: str, *options: Any) -> Any:
        loads.append(path)
        return once(path, *options)

    monkeypatch.setattr(scoring, "load", counted)
    own_model._in_memory.clear()

    async def three() -> list[list[Score]]:
        verifiers = [RewardModel(str(directory)) for _ in range(3)]
        return await asyncio.gather(*(v.score(PROMPT, [candidate(*TEXTS)], EchoModel()) for v in verifiers))

    one, *others = asyncio.run(three())
    assert len(loads) == 1 and one[0].scored
    assert all(values(other) == pytest.approx(values(one), rel=1e-4) for other in others)


def test_weights_go_with_the_last_verifier_that_holds_them(directory: Path) -> None:
    one, other = RewardModel(str(directory)), RewardModel(str(directory), "min")
    before = ask(one, candidate(*TEXTS))
    ask(other, candidate(*TEXTS))
    assert one.__dict__["_loaded"] is other.__dict__["_loaded"]
    held = weakref.ref(one.__dict__["_loaded"])
    assert ask(pickle.loads(pickle.dumps(one)), candidate(*TEXTS)) == before
    del other
    gc.collect()
    assert held() is not None
    one.close()
    gc.collect()
    assert held() is None and ask(one, candidate(*TEXTS)) == before


def test_mistakes_are_said_before_any_work(tmp_path: Path, directory: Path) -> None:
    with pytest.raises(
        ConfigError, match="reward model 'none': no such directory: make one with `structdecode train-v"
    ):
        build("verifiers", "reward-model", {"path": "none"})
    with pytest.raises(ConfigError, match="'reward-model' needs path"):
        build("verifiers", "reward-model")
    with pytest.raises(ConfigError, match="aggregate must be one of last, min, product, not 'mean'"):
        build("verifiers", "reward-model", {"path": str(directory), "aggregate": "mean"})
    with pytest.raises(ConfigError, match="aggregate must be one of last, min, product, not 'mean'"):
        RewardModel(str(directory), "mean")  # type: ignore[arg-type]
    (tmp_path / FILE).write_text('{"format": "other"}')
    with pytest.raises(ModelError, match="format 'other', not"):
        RewardModel(str(tmp_path))
    assert build("verifiers", "reward-model", {"path": str(directory)}) == RewardModel(str(directory))


def test_untrained_with_likelihood_it_ranks_as_the_model_does(tmp_path: Path) -> None:
    """The value's log-odds are those of the probability that the model gives to the text, token by token."""
    model, processor = from_base("pocket", likelihood=True)
    save(model, processor, RewardConfig.of(LLAVA_O1, likelihood=True), tmp_path / "m")
    answers = [candidate(*TEXTS), candidate(TEXTS[0], "a1 red circle. b2 red circle.")]
    found = ask(RewardModel(str(tmp_path / "m")), *answers)
    for one, score in zip(answers, found, strict=True):
        text = " ".join(f"<{name}> {body} </{name}>" for name, body in one.stages.items())
        start = f"<|bos|><|user|><|image|>{PROMPT.question}<|assistant|>"
        batch = processor(
            text=[start + text], images=[[PROMPT.images[0].image]], add_special_tokens=False, return_tensors="pt"
        )
        with torch.no_grad():
            log_probs = model.eval().backbone(**batch).logits.log_softmax(-1)
        first = len(processor.tokenizer.encode(start, add_special_tokens=False))
        ids = batch["input_ids"][0]
        own = sum(float(log_probs[0, at - 1, ids[at]]) for at in range(first, len(ids)))
        assert score.value == pytest.approx(min(math.exp(own), 0.99), rel=1e-3)
    assert found[0].value > found[1].value  # type: ignore[operator]


def test_the_generators_own_opinion_may_count_beside_it(directory: Path) -> None:
    one, other = candidate(*TEXTS), candidate(TEXTS[0], "a1 red circle. b2 red circle.")
    other = replace(other, spans=tuple(replace(span, log_probs=()) for span in other.spans))
    alone = [score.value for score in ask(RewardModel(str(directory)), one, other)]
    surer = replace(one, spans=tuple(replace(span, log_probs=(-0.5, -0.25)) for span in one.spans))
    found = ask(RewardModel(str(directory), prior=2.0), surer, other)
    log_odds = [math.log(value / (1 - value)) for value in alone]  # type: ignore[operator]
    expected = log_odds[0] + 2.0 * -0.75 * len(one.spans)
    assert found[0].value == pytest.approx(1 / (1 + math.exp(-expected)), rel=1e-6)
    assert found[1].value == pytest.approx(alone[1])  # it wrote nothing that has a probability


def test_another_training_at_the_same_path_is_another_verifier(directory: Path, tmp_path: Path) -> None:
    for name in directory.iterdir():
        (tmp_path / name.name).write_bytes(name.read_bytes())
    first = RewardModel(str(tmp_path))
    assert first == RewardModel(str(tmp_path)) and first.digest == RewardModel(str(directory)).digest
    described = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**described, "trained": {"sha256": "another"}}))
    other = RewardModel(str(tmp_path))
    assert other != first
    head = bytearray((tmp_path / HEAD).read_bytes())
    head[-1] ^= 1  # a weight alone
    (tmp_path / HEAD).write_bytes(head)
    assert RewardModel(str(tmp_path)) != other
    with pytest.raises(ConfigError, match="has changed since this verifier was made"):
        ask(other, candidate(*TEXTS))


def test_the_one_that_comes_with_the_package_sees_a_colour_that_is_not_there() -> None:
    verifier, seen = RewardModel("pocket-verifier"), 0
    with_room = (s for s in world.scenes("test", 0) if not all(c in s.stages["CAPTION"] for c in world.COLOURS))
    for scene in itertools.islice(with_room, 40):
        summary, caption = list(scene.stages.values())[:2]
        colour = next(colour for colour in world.COLOURS if colour in caption)
        other = next(other for other in world.COLOURS if other not in caption)
        wrong = caption.replace(colour, other, 1)
        prompt = Prompt(scene.question.text, [scene.render()])
        right, mistaken = ask(verifier, candidate(summary, caption), candidate(summary, wrong), prompt=prompt)
        seen += right.value > mistaken.value  # type: ignore[operator]
    assert seen >= 36
