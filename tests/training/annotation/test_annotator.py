"""One record after another: what is asked, what is accepted, and what is said about the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from structdecode.backends.openai.api import ChatApi
from structdecode.backends.openai.requests import Reply
from structdecode.core.protocols import Model
from structdecode.core.types import Candidate, Prompt, Sampling, Score
from structdecode.matching.types import Question
from structdecode.training.annotation import checks
from structdecode.training.annotation.annotator import Accepted, Annotator, Refused
from structdecode.training.annotation.checks import AnswerCheck, Filter, Problem
from structdecode.training.annotation.client import Client
from structdecode.training.annotation.costs import CostLimiter, Prices
from structdecode.training.annotation.journal import Journal
from structdecode.training.annotation.pictures import ImageStore
from structdecode.training.annotation.sources import Item, Source, read
from structdecode.verifiers.rule import Rule
from tests.training.annotation.server import Answer, Asked, ChatServer
from tests.training.annotation.world import record, right, staged, write_records

Script = Callable[[Asked], Answer]


def annotated(
    tmp_path: Path, records: list[dict[str, Any]], script: Script, **options: Any
) -> tuple[list[Any], ChatServer]:
    """What became of each record, and the server that was asked, stopped."""
    entries = read([Source.parse(str(write_records(tmp_path, records)))], ImageStore(tmp_path / "out"))

    async def run(server: ChatServer) -> list[Any]:
        journal, api = Journal(tmp_path / "journal.jsonl"), ChatApi(server.url, "key", 10)
        client = Client(api, journal, CostLimiter(Prices(), journal, None), concurrency=4, tries=1)
        annotator = Annotator(client, "strong", "judge", **options)
        try:
            items = [entry for entry in entries if isinstance(entry, Item)]
            return list(await asyncio.gather(*(annotator.annotate(item) for item in items)))
        finally:
            await api.close()
            journal.close()

    with ChatServer(script) as server:
        return asyncio.run(run(server)), server


def test_a_record_is_of_the_form_of_llava_cot(tmp_path: Path) -> None:
    (found,), server = annotated(tmp_path, [record(1, hints="Count twice.")], right)
    answer = (
        "<SUMMARY> I will look. </SUMMARY>\n\n<CAPTION> A card with dots. </CAPTION>\n\n"
        "<REASONING> I count them. </REASONING>\n\n<CONCLUSION> 2 </CONCLUSION>"
    )
    turns = [{"from": "human", "value": "How many dots are on card 1?"}, {"from": "gpt", "value": answer}]
    assert found == Accepted({"id": "card-1", "image": "vqa/cards/1.png", "conversations": turns})
    asked = server.seen[0]
    assert asked.task == "Question:\nHow many dots are on card 1?\n\nStandard answer:\n2\n\nHint:\nCount twice."
    assert asked.pictures == [("image/png", (tmp_path / "cards/1.png").read_bytes())]
    assert [m["role"] for m in asked.body["messages"]] == ["system", "user"]
    assert all(tag in asked.texts[0] for tag in ("<SUMMARY>", "</CAPTION>", "<REASONING>", "</CONCLUSION>"))


def test_without_a_picture_no_caption_is_asked_for(tmp_path: Path) -> None:
    bare = record(1)
    del bare["image"]
    three = staged("2").replace("<CAPTION> A card with dots. </CAPTION>\n\n", "")
    (found,), server = annotated(tmp_path, [bare], lambda asked: Answer(three))
    assert "image" not in found.record and "CAPTION" not in found.record["conversations"][1]["value"]
    assert "CAPTION" not in server.seen[0].texts[0] and server.seen[0].pictures == []
    (found,), _ = annotated(tmp_path, [record(2)], lambda asked: Answer(three.replace("2", "3")), retries=0)
    assert found.problem.name == "missing-tag"


def test_later_turns_see_the_earlier_ones_without_their_failed_attempts(tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        return Answer("no tags") if asked.attempt == 1 and "without" not in asked.task else right(asked)

    (found,), server = annotated(tmp_path, [record(9)], script)
    values = [turn["value"] for turn in found.record["conversations"]]
    assert [turn["from"] for turn in found.record["conversations"]] == ["human", "gpt"] * 2
    last = server.seen[-1]
    assert [m["role"] for m in last.body["messages"]] == ["system", "user", "assistant", "user"]
    assert last.texts[2] == values[1] and last.texts[3].startswith("Question:\nAnd on card 9")
    assert len(last.pictures) == 1 and isinstance(last.body["messages"][3]["content"], str)


def test_one_bad_turn_leaves_the_record_out_and_is_named(tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        return Answer("<SUMMARY> only </SUMMARY>") if "without" in asked.task else right(asked)

    (found,), _ = annotated(tmp_path, [record(9)], script, retries=1)
    assert isinstance(found, Refused)
    assert (found.turn, found.attempts, found.problem.name, found.text) == (
        2, 2, "missing-tag", "<SUMMARY> only </SUMMARY>",
    )  # fmt: skip


def test_the_reason_is_fed_back_and_attempts_are_limited(tmp_path: Path) -> None:
    (found,), server = annotated(tmp_path, [record(2)], lambda asked: Answer(staged(str(70 + asked.attempt))))
    assert isinstance(found, Refused) and (found.attempts, found.problem.name) == (3, "wrong-answer")
    assert len(server.answered) == 3
    told = server.seen[2].texts
    assert told[2] == staged("71") and told[4] == staged("72")
    assert "'72' does not agree with '3'" in told[5] and "'71'" in told[3]
    assert "'73' does not agree with '3'" in found.problem.message


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(staged("2").replace("</REASONING>", "")), "unclosed-tag"),
        (Reply(staged("2") + "Hope that helps!"), "text-outside-tags"), (Reply("Sure:\n" + staged("2")), "text-outside-tags"),
        (Reply(staged("2").replace("SUMMARY", "Summary")), "missing-tag"), (Reply(staged("2") * 2), "repeated-tag"),
        (Reply(staged("")), "empty-stage"), (Reply("```\n" + staged("2") + "```"), "text-outside-tags"),
        (Reply("<CONCLUSION> 2 </CONCLUSION>" + staged("2").split("<CONCLUSION>")[0]), "tag-order"),
        (Reply(staged("2", reasoning="I count <CAPTION> 2 </CAPTION>.")), "repeated-tag"),
        (Reply(staged("2", reasoning="The standard answer is 2.")), "leak"), (Reply(""), "empty-answer"),
        (Reply(staged("2"), finish="length"), "cut-off"), (Reply("", refusal="No."), "refused"),
        (Reply("", finish="content_filter"), "refused"), (Reply("I'm sorry, but I can't help with that."), "refused"),
    ],
)  # fmt: skip
def test_forms_that_are_not_accepted(reply: Reply, problem: str) -> None:
    found = checks.form(reply, Question("", "How many?", ("2",)), with_image=True)
    assert isinstance(found, Problem) and found.name == problem


def test_a_question_about_standard_answers_may_mention_them() -> None:
    reply = Reply(staged("yes", reasoning="It shows a standard answer."))
    assert isinstance(checks.form(reply, Question("", "Is that a standard answer?", ("yes",)), with_image=True), dict)
    assert isinstance(checks.form(reply, Question("", "Is it?", ("yes",)), with_image=True), Problem)
    choices = Reply(staged("B", reasoning="Of the given answer choices and provided answers, B fits."))
    assert isinstance(checks.form(choices, Question("", "Which?", ("B",)), with_image=True), dict)


@pytest.mark.parametrize(
    ("conclusion", "standard", "asked", "accepted"),
    [
        ("2", "2", 0, True), ("two", "2", 0, True), ("The answer is 3.", "2", 0, False), ("Yes", "No", 0, False),
        ("A bike that is red", "a red bicycle", 1, True), ("A blue car", "a red bicycle", 1, False),
        ("I cannot tell.", "a red bicycle", 0, False),
    ],
)  # fmt: skip
def test_the_judge_is_asked_where_no_rule_can_tell(
    conclusion: str, standard: str, asked: int, accepted: bool, tmp_path: Path
) -> None:
    each = record(1)
    each["conversations"][1]["value"] = standard

    def script(request: Asked) -> Answer:
        if not request.judging:
            return Answer(staged(conclusion))
        assert request.body["model"] == "judge" and request.body["temperature"] == 0 and request.pictures == []
        return Answer("yes" if "red" in request.texts[-1].partition("<answer>")[2] else "No.")

    (found,), server = annotated(tmp_path, [each], script, retries=0)
    assert isinstance(found, Accepted) == accepted
    assert sum(seen.judging for seen in server.seen) == asked


def test_without_a_judge_only_rules_accept(tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        return Answer(staged("A bike that is red"))

    (found,), server = annotated(tmp_path, [record(8)], script, retries=0, answers=AnswerCheck(None))
    assert isinstance(found, Refused) and len(server.seen) == 1


def test_a_judge_that_cannot_be_read_accepts_nothing(tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        return Answer("Well, in a way.") if asked.judging else Answer(staged("A bike that is red"))

    (found,), _ = annotated(tmp_path, [record(8)], script, retries=0)
    assert isinstance(found, Refused) and "judge:unreadable" in found.problem.message


# ------------------------------------------------------------------ verifiers


def test_a_verifier_has_the_last_word_and_its_reason_is_fed_back(tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        return Answer(staged("2", reasoning="Hm." if asked.attempt == 1 else "I count one, two."))

    wordy = Filter(Rule(pattern="count", stage="REASONING"), "rule", 1.0)
    (found,), server = annotated(tmp_path, [record(1)], script, filter=wordy)
    assert isinstance(found, Accepted) and "one, two" in found.record["conversations"][1]["value"]
    assert "rule gives it 0, less than 1" in server.seen[1].texts[-1]
    (found,), _ = annotated(tmp_path, [record(2)], script, filter=wordy, retries=0)
    assert found.problem.name == "wrong-answer", "the verifier comes last"


class AsksTheModel:
    """Scores 1 where the judge model says good, in a chat that has the picture."""

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        question = Prompt(f"Is this good? {candidates[0].text}", prompt.images)
        replies = await model.complete(question, n=2, sampling=Sampling(0.5, max_tokens=5))
        return [Score(sum(reply.text == "good" for reply in replies) / 2)]


def test_a_verifier_may_ask_the_judge_model(tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        if not asked.texts[-1].startswith("Is this good?"):
            return right(asked)
        assert asked.body["model"] == "judge" and len(asked.pictures) == 1
        return Answer("good")

    (found,), server = annotated(tmp_path, [record(4)], script, filter=Filter(AsksTheModel(), "asks", 0.9))
    assert isinstance(found, Accepted)
    assert len({seen.body["seed"] for seen in server.seen[1:]}) == 2, "two draws are two requests"


class Fails:
    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        raise RuntimeError("boom")


def test_a_failing_verifier_costs_one_attempt_and_is_named(tmp_path: Path) -> None:
    (found,), server = annotated(tmp_path, [record(1)], right, filter=Filter(Fails(), "fails", 0.5))
    assert found.problem.name == "verifier-failed" and "boom" in found.problem.message
    assert len(server.answered) == 1
