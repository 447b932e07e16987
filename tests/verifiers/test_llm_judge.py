"""A judge behind a chat API: exact scores, over real HTTP, whatever the server does; nothing paid for twice."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pickle
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import structdecode as sd
from structdecode.core.budget import Usage
from structdecode.core.errors import BudgetSpent, ConfigError
from structdecode.pocket import world
from structdecode.strategies.best_of_n import BestOfN
from structdecode.testing import EchoModel, candidate, check_verifier
from structdecode.verifiers.ensemble import Ensemble
from structdecode.verifiers.llm_judge import LlmJudge
from structdecode.verifiers.log_prob import LogProb
from tests import processes
from tests.borders.commands import full_disk
from tests.training.annotation.server import Answer, Asked, ChatServer
from tests.verifiers.judging import KEY, QUESTIONS, N, grade, search, token

PICTURE = Image.new("RGB", (40, 30), "red")
QUESTION = sd.Prompt("How many red squares are there?", [PICTURE])


@pytest.fixture(autouse=True)
def key_and_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("structdecode.backends.openai.throttle._LONGEST_WAIT", 0.01)


def captions(*texts: str) -> list[sd.Candidate]:
    return [candidate("plan", text, path=(0, i)) for i, text in enumerate(texts)]


def score(
    verifier: LlmJudge, candidates: Sequence[sd.Candidate], model: Any = None, prompt: sd.Prompt = QUESTION
) -> list[sd.Score]:
    return list(asyncio.run(verifier.score(prompt, candidates, model or EchoModel())))


def judged(
    script: Callable[[Asked], Answer], candidates: Sequence[sd.Candidate], **settings: Any
) -> tuple[list[sd.Score], ChatServer]:
    with ChatServer(script) as server:
        return score(LlmJudge("strong", server.url, **{"retries": 1, **settings}), candidates), server


def says(text: str, **fields: Any) -> Callable[[Asked], Answer]:
    return lambda asked: Answer(text, **fields)


# ------------------------------------------------------------------ pointwise
def test_the_score_is_the_expected_level_over_the_digits() -> None:
    top = {"4": 0.5, " 4": 0.1, "5": 0.2, "2": 0.05, "x": 0.1, "9": 0.04, "45": 0.01}
    (found,), server = judged(lambda asked: Answer("4", log_probs=[token("4", top)]), captions("two red squares"))
    assert found.value == pytest.approx((4 * 0.6 + 5 * 0.2 + 2 * 0.05) / 0.85 / 5)
    assert found.details["label_mass"] == pytest.approx(0.85) and found.details["level"] == 4
    assert found.details["probabilities"]["4"] == pytest.approx(0.6 / 0.85) and len(found.details["probabilities"]) == 5
    (asked,) = server.seen
    assert {name: asked.body[name] for name in ("model", "logprobs", "top_logprobs", "max_tokens", "temperature")} == {
        "model": "strong", "logprobs": True, "top_logprobs": 20, "max_tokens": 16, "temperature": 0.0,
    }  # fmt: skip
    assert "Proposed caption: two red squares" in asked.texts[0] and "from 1 (wrong) to 5" in asked.texts[0]
    assert [mime for mime, _ in asked.pictures] == ["image/png"] and asked.body["messages"][0]["content"][1][
        "type"
    ] == "text"
    assert asked.headers["authorization"] == f"Bearer {KEY}"


def test_the_level_is_found_where_the_reply_has_it() -> None:
    entries = [token("<think>", {}), token("1", {"1": 1.0}), token("</think>", {}), token("Score", {}), token(":", {})]
    entries.append(token(" 3", {" 3": 0.75, " 1": 0.25}))
    (found,), _ = judged(says("Score: 3", log_probs=entries), captions("a"), levels=3)
    assert found.value == pytest.approx((3 * 0.75 + 1 * 0.25) / 3) and found.details["level"] == 3


@pytest.mark.parametrize("reply", ["3", " **3**", "3/5", "3 out of 5", "Score: 3.", "<think>1 or 2?</think>\n3"])
def test_without_log_probabilities_the_digit_counts_and_says_so(reply: str) -> None:
    (found,), _ = judged(says(reply), captions("a"))
    assert found.value == 3 / 5 and found.details == {"level": 3, "label_mass": None}
    assert "without log-probabilities" in found.reason


@pytest.mark.parametrize(
    "damaged", [[], [{"token": "3"}], [{"token": "3", "logprob": "x", "top_logprobs": []}], [7], "x"]
)
def test_damaged_log_probabilities_are_none(damaged: Any) -> None:
    (found,), _ = judged(says("3", log_probs=damaged), captions("a"))
    assert found.value == 3 / 5 and found.details["label_mass"] is None


def test_a_server_that_refuses_log_probabilities_is_asked_without() -> None:
    def script(asked: Asked) -> Answer:
        if "logprobs" in asked.body:
            return Answer(status=400, error={"message": "logprobs are not supported by this model"})
        return Answer("5")

    with ChatServer(script) as server:

        async def twice() -> list[sd.Score]:
            async with LlmJudge("strong", server.url) as judge:
                first = await judge.score(QUESTION, captions("a"), EchoModel())
                return first + await judge.score(QUESTION, captions("b"), EchoModel())

        assert [found.value for found in asyncio.run(twice())] == [1.0, 1.0]
        assert ["logprobs" in asked.body for asked in server.seen] == [True, False, False], "known from then on"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("very good"), "no level from 1 to 5 in the judge's reply 'very good'"), (Answer(""), "no level"),
        (Answer("7"), "no level from 1 to 5"), (Answer("4.5"), "no level"), (Answer("10"), "no level"), (Answer(None), "no level"),
        (Answer("<think>hm", finish="length"), "cut at max_tokens 16"), (Answer("", refusal="I can't\nhelp"), r"refuses: .*can't\\nhelp"),
        (Answer(raw=b"<html>\nlogin</html>"), "no answer after 2 tries .*not JSON.*base URL"), (Answer(status=500), "no answer after 2 tries"),
        (Answer(status=400, error={"message": "image too large"}), "BadRequest: HTTP 400: .*image too large"),
        (Answer(raw=b'{"choices": []}'), "no answer after 2 tries .*no chat completion"),
    ],
)  # fmt: skip
def test_without_a_level_a_candidate_is_unscored_with_one_line(answer: Answer, reason: str) -> None:
    def script(asked: Asked) -> Answer:
        return answer if "Proposed caption: bad" in asked.texts[0] else Answer("4")

    (good, bad), _ = judged(script, captions("good", "bad"))
    assert good.value == 4 / 5 and bad.value is None
    assert re.search(reason, bad.reason) and bad.reason.isprintable() and KEY not in bad.reason


def test_pictures_can_be_left_out_and_there_may_be_several() -> None:
    _, server = judged(says("3"), captions("a"), images=False)
    assert server.seen[0].pictures == [] and isinstance(server.seen[0].body["messages"][0]["content"], str)
    two = sd.Prompt("Which?", [PICTURE, Image.new("RGB", (8, 8), "blue")])
    with ChatServer(says("3")) as server:
        score(LlmJudge("strong", server.url), captions("a"), prompt=two)
        assert len(server.seen[0].pictures) == 2


def test_a_template_of_ones_own() -> None:
    _, server = judged(says("3"), captions("{question} x"), template="{question}|{text}|{levels}", levels=7)
    assert server.seen[0].texts == ["How many red squares are there?|{question} x|7"]


# ------------------------------------------------------------------ pairwise
def prefers(word: str) -> Callable[[Asked], Answer]:
    """Chooses the response with the word in it, the second where neither has it."""

    def script(asked: Asked) -> Answer:
        first = asked.texts[0].split("Response 1:")[1].split("Response 2:")[0]
        return Answer(f"Hm. I choose response {1 if word in first else 2}")

    return script


@pytest.mark.parametrize("tournament", ["knockout", "round-robin"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_pairs_find_the_better_one(tournament: str, count: int) -> None:
    texts = [f"text {i}" for i in range(count - 1)] + ["good text"]
    scores, _ = judged(prefers("good"), captions(*texts), mode="pairwise", tournament=tournament)
    assert max(range(count), key=lambda i: scores[i].value or 0) == count - 1 and scores[-1].value == 1.0


def test_a_judge_that_always_says_first_decides_nothing_in_both_orders() -> None:
    biased, pair = says("I choose response 1"), captions("a", "b")
    scores, server = judged(biased, pair, mode="pairwise")
    assert sum(s.details["wins"] for s in scores) == 1 and len(server.seen) == 1
    scores, server = judged(biased, pair, mode="pairwise", both_orders=True)
    assert [(s.details["wins"], s.details["swaps"], s.details["swap_consistent"]) for s in scores] == [(0, 1, 0)] * 2
    assert len(server.seen) == 2
    scores, _ = judged(prefers("b"), pair, mode="pairwise", both_orders=True)
    assert [(s.value, s.details["swap_consistent"]) for s in scores] == [(0.0, 1), (1.0, 1)]


@pytest.mark.parametrize(
    ("answer", "reason"), [(Answer("both are fine"), "no verdict in"), (Answer(status=503), "no answer after 2 tries")]
)
@pytest.mark.parametrize("both", [False, True])
def test_a_candidate_without_any_verdict_is_unscored_and_does_not_win(answer: Answer, reason: str, both: bool) -> None:
    scores, _ = judged(lambda asked: answer, captions("a", "b", "c", "d"), mode="pairwise", both_orders=both)
    assert all(s.value is None and reason in s.reason for s in scores)

    def script(asked: Asked) -> Answer:
        return answer if "bad" in asked.texts[0] else prefers("good")(asked)

    scores, _ = judged(
        script, captions("bad", "good", "c"), mode="pairwise", tournament="round-robin", both_orders=both
    )
    assert [s.value for s in scores] == [None, 0.5, 0.0] and scores[1].details["unparseable"] == 1


# ------------------------------------------------------------------ listwise
def by_length(asked: Asked) -> Answer:
    """The longest response first."""
    shown = re.findall(r"^Response (\d+): (.*)$", asked.texts[0], re.M)
    return Answer("Well.\n" + " > ".join(f"[{number}]" for number, _ in sorted(shown, key=lambda s: -len(s[1]))))


@pytest.mark.parametrize("both", [False, True])
def test_lists_are_ranked_at_once_in_an_order_of_their_own(both: bool) -> None:
    scores, server = judged(by_length, captions("a", "aaa", "aaaa", "aa", "aaaaa"), mode="listwise", both_orders=both)
    assert [s.value for s in scores] == [0.0, 0.5, 0.75, 0.25, 1.0]
    shown = [re.findall(r"Response \d+: (a+)", asked.texts[0]) for asked in server.seen]
    assert len(shown) == 1 + both and shown[0] != ["a", "aaa", "aaaa", "aa", "aaaaa"]
    assert not both or (
        sorted(shown)[0] == sorted(shown)[1][::-1] and scores[0].details == {"swaps": 4, "swap_consistent": 4}
    )
    again, other = judged(by_length, captions("a", "aaa", "aaaa", "aa", "aaaaa"), mode="listwise", both_orders=both)
    assert {a.texts[0] for a in other.seen} == {a.texts[0] for a in server.seen} and again == scores


def test_a_list_by_position_alone_is_worth_nothing_in_both_orders() -> None:
    scores, _ = judged(says("1 > 2 > 3"), captions("a", "b", "c"), mode="listwise", both_orders=True)
    assert [(s.value, s.details["swap_consistent"]) for s in scores] == [(0.0, 0)] * 3
    alone, server = judged(says("?"), captions("a"), mode="listwise")
    assert alone[0].value == 1.0 and not server.seen


@pytest.mark.parametrize("reply", ["[1] > [2]", "[1] > [2] > [2]", "[1] > [2] > [4]", "all", "9" * 5000 + " > 1 > 2"])
def test_a_ranking_that_is_none_leaves_all_unscored(reply: str) -> None:
    scores, _ = judged(says(reply), captions("a", "b", "c"), mode="listwise")
    assert all(s.value is None and "no ranking of all 3 in the judge's reply" in s.reason for s in scores)


# ------------------------------------------------------------------ servers that fail
def test_a_rate_limit_is_waited_for() -> None:
    def script(asked: Asked) -> Answer:
        return Answer(status=429, headers={"Retry-After": "1"}) if asked.times == 0 else Answer("5")

    (found,), server = judged(script, captions("a"))
    assert found.value == 1.0 and server.times[1] - server.times[0] >= 1


def test_a_slow_server_is_given_up_and_asked_again() -> None:
    (found,), server = judged(says("5", delay=3), captions("a"), timeout=1.0)
    assert found.value is None and "no answer after 2 tries (no answer within 1 s)" in found.reason
    assert len(server.seen) == 2


def test_a_wrong_key_is_a_failing_verifier_in_one_line_without_the_key() -> None:
    error = {"message": f"Incorrect API key provided: {KEY}"}
    with ChatServer(lambda asked: Answer(status=401, error=error)) as server:
        results = search(LlmJudge("strong", server.url), questions=1)
    (failure,) = results[0].trace.failures
    assert "HTTP 401" in failure["error"] and "check OPENAI_API_KEY" in failure["error"] and "[key]" in failure["error"]
    assert KEY not in json.dumps(results[0].trace.as_dict()) and results[0].answer, "the search went on"


# ------------------------------------------------------------------ what is paid
def test_equal_requests_in_flight_are_asked_once_and_charged_once() -> None:
    same = [candidate("plan", "same", path=(0, 0)), candidate("plan", "same", path=(0, 1))]
    with ChatServer(says("4", delay=0.2)) as server:
        model = EchoModel()
        assert [s.value for s in score(LlmJudge("strong", server.url), same, model)] == [0.8, 0.8]
        assert len(server.seen) == 1 and model.charged.api_calls == 1


def test_the_most_is_charged_before_and_more_only_where_it_was_more(tmp_path: Path) -> None:
    def charged(usage: dict[str, int], **settings: Any) -> Usage:
        model = EchoModel()
        with ChatServer(says("4", usage=usage)) as server:
            score(
                LlmJudge("strong", server.url, images=False, price_in=1e6, price_out=1e6, **settings),
                captions("a"),
                model,
            )
        return model.charged

    most = charged({"prompt_tokens": 1, "completion_tokens": 1})
    assert most.api_calls == 1 and most.dollars > 16, "a dollar a token: the reply in full and a guess at the prompt"
    assert charged({"prompt_tokens": 1, "completion_tokens": 1}, max_tokens=40).dollars == most.dollars + 24
    assert charged({"prompt_tokens": 500, "completion_tokens": 16}).dollars == 516


@pytest.mark.parametrize(
    ("first", "paid"),
    [(Answer(status=500), 1), (Answer(status=429, headers={"retry-after-ms": "1"}), 1), (Answer(raw=b"<html>"), 2), (Answer("5", delay=1), 2)],
)  # fmt: skip
def test_what_may_have_been_paid_is_charged_again(first: Answer, paid: int) -> None:
    def charged(script: Callable[[Asked], Answer]) -> Usage:
        model = EchoModel()
        with ChatServer(script) as server:
            score(LlmJudge("strong", server.url, price_out=1e6, timeout=0.4), captions("a"), model)
        return model.charged

    fine = Answer("5", usage={"prompt_tokens": 1, "completion_tokens": 1})
    once = charged(lambda asked: fine)
    found = charged(lambda asked: fine if asked.times else first)
    assert (found.api_calls, found.dollars) == (2, paid * once.dollars)


@pytest.mark.parametrize("mode", ["pointwise", "pairwise", "listwise"])
def test_a_limit_of_dollars_is_not_overshot(mode: str) -> None:
    usage = {"prompt_tokens": 40, "completion_tokens": 16}

    def script(asked: Asked) -> Answer:
        replies = {"pointwise": "4", "pairwise": "I choose response 1", "listwise": "1 > 2 > 3 > 4"}
        return Answer(replies[mode], usage=usage)

    settings: dict[str, Any] = {"price_in": 10, "price_out": 100, "mode": mode, "max_tokens": 16}
    with ChatServer(script) as server:
        free = search(LlmJudge("strong", server.url, **settings), questions=1)[0].usage.dollars
        before = len(server.seen)
        for share in (0.01, 0.4, 0.99, 1.0):
            limit = share * free
            results = search(LlmJudge("strong", server.url, **settings), questions=3, budget=sd.Budget(dollars=limit))
            for result in results.values():
                assert result.usage.dollars <= limit * (1 + 1e-9)
                assert result.stopped_by == ("dollars" if share < 1 else None) and result.answer
            paid = (len(server.seen) - before) * (16 * 100 + 40 * 10) / 1e6
            charged = sum(result.usage.dollars for result in results.values())
            assert paid <= charged + 1e-12
            before = len(server.seen)
    with ChatServer(script) as server, pytest.raises(BudgetSpent):
        score(LlmJudge("strong", server.url, **settings), captions("a", "b"), _Poor())
    assert not server.seen


class _Poor(EchoModel):
    def charge(self, usage: Usage) -> None:
        raise BudgetSpent("dollars")


# ------------------------------------------------------------------ the cache
def test_what_was_paid_for_costs_nothing_and_the_key_is_in_no_file(tmp_path: Path) -> None:
    def echo(asked: Asked) -> Answer:
        return Answer(f"4, {asked.headers['authorization']}", log_probs=[token("4", {"4": 0.5, "3": 0.25})])

    with ChatServer(echo) as server:
        judge = LlmJudge("strong", server.url, cache=str(tmp_path / "cache"), price_in=1)
        first, second = EchoModel(), EchoModel()
        scores = score(judge, captions("a", "b", "c"), first)
        assert score(judge, captions("c", "a", "b"), second) == [scores[2], scores[0], scores[1]]
        assert len(server.seen) == 3 == first.charged.api_calls and second.charged == Usage()
        other = LlmJudge("strong", server.url.replace("127.0.0.1", "localhost"), cache=str(tmp_path / "cache"))
        score(other, captions("a"))
        score(LlmJudge("stronger", server.url, cache=str(tmp_path / "cache")), captions("a"))
        score(judge, captions("a"), prompt=sd.Prompt(QUESTION.question, [Image.new("RGB", (40, 30), "blue")]))
        assert len(server.seen) == 6, "another server, model or picture is another request"
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written and all(KEY.encode() not in path.read_bytes() for path in written)
    assert KEY not in repr(judge) and KEY.encode() not in pickle.dumps(judge)
    assert not list(tmp_path.rglob("*.asking"))


def test_a_torn_last_line_is_passed_over_and_a_damaged_one_named(tmp_path: Path) -> None:
    with ChatServer(grade) as server:
        judge = LlmJudge("strong", server.url, cache=str(tmp_path))
        scores = score(judge, captions("a", "b"))
        file = tmp_path / "replies-1.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(lines[0] + lines[1][:-20])
        assert score(judge, captions("a", "b")) == scores and len(server.seen) == 3
        file.unlink()
        (tmp_path / "replies-7.jsonl").write_bytes(lines[0] + lines[1][:-20])  # of another process, which was killed
        assert score(judge, captions("a", "b")) == scores and len(server.seen) == 4
        (tmp_path / "replies-7.jsonl").unlink()
        file.write_bytes(lines[0] + b"{}\n" + lines[1])
        with pytest.raises(ConfigError, match=r"replies-1\.jsonl: the line at byte \d+ is damaged .*delete this line"):
            score(judge, captions("a"))
        file.write_bytes(lines[0].replace(b'"prompt_tokens": 40', b'"prompt_tokens": "x"'))
        with pytest.raises(ConfigError, match="prompt_tokens is 'x', not a whole number"):
            score(judge, captions("a", "b"))


def test_a_reply_that_cannot_be_kept_ends_the_asking(tmp_path: Path) -> None:
    def long(asked: Asked) -> Answer:
        return Answer("4" + " " * 3000)

    with ChatServer(long) as server:
        judge = LlmJudge("strong", server.url, cache=str(tmp_path), concurrency=1)
        with full_disk(4096):
            found = search(judge, questions=2)
        (error,) = {failure["error"] for result in found.values() for failure in result.trace.failures}
        assert len(server.seen) == 2, "nothing more is paid for"
        assert "replies-1.jsonl: a reply cannot be kept" in error and "make room" in error
        assert os.strerror(errno.EFBIG) in error
        search(judge, questions=2)
        assert len(server.seen) == 2 + 2 * N - 1, "what was torn was cut off, and asked again"


def test_a_search_that_gave_up_leaves_what_was_in_flight_in_the_cache(tmp_path: Path) -> None:
    with ChatServer(says("4", delay=1.0)) as server:
        judge = LlmJudge("strong", server.url, cache=str(tmp_path), concurrency=2)
        result = search(judge, questions=1, verifier_timeout=0.3)[0]
        assert "no score within 0.3 s" in result.trace.failures[0]["error"]
        assert len(server.seen) == 2 == len((tmp_path / "replies-1.jsonl").read_text().splitlines())
        assert result.usage.api_calls == 2, "those that waited for their turn are not charged"
        assert search(judge, questions=1)[0].usage.api_calls == N - 2 and len(server.seen) == N


def test_killed_in_the_middle_nothing_is_paid_for_twice(tmp_path: Path) -> None:
    def slow(asked: Asked) -> Answer:
        time.sleep(0.02)
        return grade(asked)

    with ChatServer(slow) as server:
        whole = search(LlmJudge("strong", server.url))
        needed = set(server.answered)
    with ChatServer(slow) as server:
        cache, in_flight = tmp_path / "cache", set[str]()
        for part in (1, 2):
            (process,) = start(server.url, cache)
            server.wait_for_answers(part * len(needed) // 3)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            server.settle()
            kept, answered = paid(cache), list(server.answered)
            assert 0 < len(kept) < len(needed)
            in_flight |= set(answered) - kept
        (process,) = start(server.url, cache)
        assert billed(process) < len(needed)
        assert not kept & set(server.answered[len(answered) :]), "paid for again after a restart"
        twice = {content for content, count in Counter(server.answered).items() if count > 1}
        assert twice <= in_flight and len(in_flight) <= 2 * 4, "at most what was in flight at a kill"
        assert set(server.answered) == needed == paid(cache)
        again = search(LlmJudge("strong", server.url, cache=str(cache)))
        assert sum(result.usage.api_calls for result in again.values()) == 0
    assert {n: r.answer for n, r in again.items()} == {n: r.answer for n, r in whole.items()}
    assert all(KEY not in path.read_text() for path in cache.iterdir())


def test_two_processes_at_once_pay_for_each_reply_once(tmp_path: Path) -> None:
    def slow(asked: Asked) -> Answer:
        time.sleep(0.02)
        return grade(asked)

    with ChatServer(slow) as server:
        requests = [billed(process) for process in start(server.url, tmp_path / "cache", 2)]
        assert max(Counter(server.answered).values()) == 1 and sum(requests) == len(server.answered) == QUESTIONS * N
    assert min(requests) > 0 and len(list(tmp_path.glob("cache/replies-*.jsonl"))) == 2, "both were at work"


def start(url: str, cache: Path, count: int = 1) -> list[processes.Command]:
    """Processes that begin at the same time."""
    go = cache.with_name("go")
    go.unlink(missing_ok=True)
    around = {"OPENAI_API_KEY": KEY}
    all_ = [
        processes.start(url, cache, go, program="tests.verifiers.judging", environment=around) for _ in range(count)
    ]
    while not all("ready" in process.said("out") for process in all_):
        assert all(process.poll() is None for process in all_), [process.said("err") for process in all_]
        time.sleep(0.01)
    go.touch()
    return all_


def billed(process: processes.Command) -> int:
    """Of a process that ended well, and scored all candidates."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    _, requests, unscored = out.split(maxsplit=2)
    assert unscored.strip() == "[]", "not all were scored"
    return int(requests)


def paid(cache: Path) -> set[str]:
    """Server-side names of the replies on the disk; a last line may be torn."""
    texts = [path.read_text().rpartition("\n")[0] for path in cache.glob("replies-*.jsonl")]
    return {json.loads(line)["id"].removeprefix("chatcmpl-") for text in texts for line in text.splitlines()}


# ------------------------------------------------------------------ in a search
def test_one_client_for_a_run_and_none_behind_it() -> None:
    with ChatServer(grade) as server:
        judge = LlmJudge("strong", server.url, concurrency=3)
        results = search(Ensemble({"judge": judge, "log-prob": LogProb()}), questions=6)  # type: ignore[arg-type]
        assert len(results) == 6 and not any(result.trace.failures for result in results.values())
        assert server.most <= 3, "the limit is the run's"
        assert not judge._opened


def test_not_entered_it_keeps_the_laws_of_verifiers() -> None:
    with ChatServer(grade) as server:
        for mode in ("pointwise", "pairwise", "listwise"):
            check_verifier(LlmJudge("strong", server.url, mode=mode, retries=0))  # type: ignore[arg-type]


def test_generate_asks_it_by_name(tmp_path: Path) -> None:
    scene = next(iter(world.scenes("test")))
    scene.render().save(tmp_path / "scene.png")
    asking = (
        "generate", "--image", tmp_path / "scene.png", "--question", scene.question.text, "--model", "pocket", "--strategy", "stage-beam",
        "--verifier", "llm-judge", "--set", "candidates=3", "--set", "temperature=1", "--set", "verifier.model=strong",
        "--set", f"verifier.cache={tmp_path / 'cache'}", "--set", "verifier.price_in=2", "--set", "verifier.price_out=8",
        "--json", "--trace", tmp_path / "trace.json",
    )  # fmt: skip
    with ChatServer(grade) as server:
        around = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url}
        done = processes.run(*asking, **around)
        assert done.returncode == 0, done.stderr
        found, asked = json.loads(done.stdout), len(server.seen)
        assert found["verifier"] == "llm-judge" and found["answer"] and 0 < found["candidates"][0]["score"] <= 1
        assert found["usage"]["api_calls"] == asked > 0 and 0 < found["usage"]["dollars"] < 0.01
        assert all(len(each.pictures) == 1 for each in server.seen)
        again = json.loads(processes.run(*asking, **around).stdout)
        assert (
            again["candidates"] == found["candidates"]
            and "api_calls" not in again["usage"]
            and len(server.seen) == asked
        )
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_a_judge_as_the_verifier_of_a_strategy_chooses_what_it_likes() -> None:
    def script(asked: Asked) -> Answer:
        number = int(re.findall(r"conclusion (\d+)", asked.texts[0])[-1])
        return Answer(str(1 + number * 9 // 1000))

    with ChatServer(script) as server:
        strategy = BestOfN(n=6, verifier=LlmJudge("strong", server.url, levels=9))
        result = sd.decode("q", backend=sd.ScriptedBackend(_numbered), strategy=strategy)
    numbers = [int(r.candidate.stages["CONCLUSION"].split()[1]) * 9 // 1000 for r in result.candidates]
    assert numbers == sorted(numbers, reverse=True) and len(set(numbers)) > 1


def _numbered(prompt: sd.Prompt, prefix: sd.Candidate, stage: sd.Stage, seed: int) -> str:
    return f"{stage.name.lower()} {seed % 1000}{stage.end}"


# ------------------------------------------------------------------ settings
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "triples"}, "mode must be one of pointwise, pairwise, listwise"), ({"levels": 10}, "levels must be from 2 to 9, not 10"),
        ({"levels": 1}, "levels"), ({"retries": -1}, "retries"), ({"timeout": 0.0}, "timeout"), ({"concurrency": 0}, "concurrency"),
        ({"price_in": -1.0}, "price_in must be from 0"), ({"temperature": -1.0}, "temperature must be 0"), ({"max_tokens": 0}, "max_tokens"),
        ({"template": "{question}"}, r"the pointwise template lacks '\{text\}'"),
        ({"mode": "pairwise", "template": "{question} {first}"}, r"the pairwise template lacks '\{second\}'"),
        ({"base_url": "localhost:8000"}, "has to begin with http:// or https://"), ({"base_url": "http://a:b@c/v1"}, "no password"),
        ({"base_url": "http://c/v1?key=x"}, "no query"), ({"base_url": "http://c:x/v1"}, "http://c:x/v1"), ({"cache": __file__}, "is a file"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LlmJudge("strong", **settings)


def test_without_a_key_it_says_where_to_put_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="no API key: set OPENAI_API_KEY in the environment, or give base_url"):
        sd.build("verifiers", "llm-judge", {"model": "strong"})
    with ChatServer(grade) as server:
        assert score(LlmJudge("strong", server.url), captions("a"))[0].scored, "a server of one's own may want none"
