from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from structdecode.protocols import Model, Verdict
from structdecode.testing import EchoModel, candidate
from structdecode.types import Candidate, Prompt, Score
from structdecode.verifiers.tournaments import Knockout, RoundRobin, Tie


class Longer:
    """A `PairwiseJudge`: the longer caption wins, equal ones tie, an empty one cannot be read."""

    def __init__(self) -> None:
        self.matches: list[tuple[str, str]] = []
        self.running = self.most = 0

    async def compare(self, prompt: Prompt, first: Candidate, second: Candidate, model: Model) -> Verdict:
        a, b = first.stages["CAPTION"], second.stages["CAPTION"]
        self.matches.append((a, b))
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001)
        self.running -= 1
        if not a or not b:
            return Verdict(None, "?")
        return Tie(reason="equal") if len(a) == len(b) else Verdict(int(len(b) > len(a)))


def field(*texts: str, root: int = 0) -> list[Candidate]:
    return [candidate("s", text, path=(root, i)) for i, text in enumerate(texts)]


def play(kind: type[Knockout] | type[RoundRobin], judge: Longer, candidates: list[Candidate]) -> list[Score]:
    return asyncio.run(kind(judge).score(Prompt("Q"), candidates, EchoModel()))


@pytest.mark.parametrize("count", range(2, 10))
def test_knockout_has_one_match_fewer_than_candidates_and_the_best_survives_all(count: int) -> None:
    judge = Longer()
    scores = play(Knockout, judge, field(*("x" * (i + 1) for i in range(count))))
    assert len(judge.matches) == count - 1
    assert scores[-1].value == 1.0 and sum(s.value == 1.0 for s in scores) == 1
    assert all(s.value is not None and 0 <= s.value <= 1 for s in scores)
    assert judge.most == count // 2  # a round's matches run at once


def test_pairing_is_reproducible_depends_on_the_paths_and_favours_no_position() -> None:
    texts = [chr(97 + i) * (i + 1) for i in range(8)]
    again = [Longer(), Longer()]
    for judge in again:
        play(Knockout, judge, field(*texts))
    assert again[0].matches == again[1].matches
    drawn, shown_first = set(), Counter[str]()
    for root in range(40):
        judge = Longer()
        play(Knockout, judge, field("a", "bb", root=root))
        drawn.add(judge.matches[0])
        shown_first[judge.matches[0][0]] += 1
    assert len(drawn) == 2 and min(shown_first.values()) > 8
    assert len({first for root in range(20) for first, _ in _matches(RoundRobin, field("a", "bb", root=root))}) == 2


def _matches(kind: type[RoundRobin], candidates: list[Candidate]) -> list[tuple[str, str]]:
    judge = Longer()
    play(kind, judge, candidates)
    return judge.matches


def test_round_robin_is_the_share_of_wins() -> None:
    judge = Longer()
    scores = play(RoundRobin, judge, field("a", "bb", "ccc", "ddd"))
    assert len(judge.matches) == 6 and judge.most == 6
    assert [s.value for s in scores] == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3])
    assert scores[3].details == {"wins": 2, "undecided": 1, "unparseable": 0}


def test_unreadable_matches_are_told_from_ties_and_are_no_wins() -> None:
    for kind in (Knockout, RoundRobin):
        unread = play(kind, Longer(), field("", ""))
        tied = play(kind, Longer(), field("a", "b"))
        assert [s.details for s in unread] == [{"wins": 0, "undecided": 1, "unparseable": 1}] * 2
        assert [s.details for s in tied] == [{"wins": 0, "undecided": 1, "unparseable": 0}] * 2
        assert "readable" in unread[0].reason and "readable" not in tied[0].reason
    assert sorted(s.value or 0 for s in play(Knockout, Longer(), field("", ""))) == [
        0,
        1,
    ]  # the one drawn first goes on


@pytest.mark.parametrize("kind", [Knockout, RoundRobin])
def test_one_candidate_is_unopposed_and_none_gives_none(kind: type[Knockout]) -> None:
    judge = Longer()
    (score,) = play(kind, judge, field("a"))
    assert (score.value, score.reason, judge.matches) == (1.0, "unopposed", [])
    assert play(kind, judge, []) == []


def test_after_a_failed_match_nothing_goes_on_behind_the_searchs_back() -> None:
    class Failing(Longer):
        async def compare(self, prompt: Prompt, first: Candidate, second: Candidate, model: Model) -> Verdict:
            if "bad" in first.stages["CAPTION"] + second.stages["CAPTION"]:
                raise ValueError("judge broke")
            return await super().compare(prompt, first, second, model)

    judge = Failing()

    async def run() -> None:
        with pytest.raises(ValueError, match="judge broke"):
            await RoundRobin(judge).score(Prompt("Q"), field("bad", "a", "bb", "ccc"), EchoModel())
        assert judge.running == 0 and len(judge.matches) == 3

    asyncio.run(run())
