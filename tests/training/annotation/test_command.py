"""``structdecode annotate`` from its options to its exit code, over real HTTP, in this process."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from structdecode.backends.openai.errors import ApiError
from structdecode.core.errors import ConfigError, DataError, UnknownNameError
from structdecode.core.jsonl import Appender
from structdecode.matching.types import Question
from structdecode.training.annotation import command, run
from structdecode.training.annotation.annotator import Annotator
from structdecode.training.annotation.checks import AnswerCheck, Filter
from structdecode.training.annotation.client import ChatClient
from structdecode.training.annotation.command import Options
from structdecode.training.annotation.costs import Prices
from structdecode.training.annotation.session import ApiBackend
from structdecode.training.check import check
from tests.training.annotation.server import Answer, Asked, ChatServer
from tests.training.annotation.world import read_lines, record, right, staged, write_records

KEY = "sk-test-abcdefgh"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(command.KEY, KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr("structdecode.backends.openai.throttle._LONGEST_WAIT", 0.01)


def options(tmp_path: Path, url: str | None, numbers: range = range(6), **fields: Any) -> Options:
    source = write_records(tmp_path, [record(number) for number in numbers])
    chosen = {"concurrency": 2, "quiet": True, "tries": 2, **fields}
    return Options([str(source)], tmp_path / "out", "strong", "judge", url, **chosen)


def test_progress_and_summary_of_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(right) as server:
        chosen = options(tmp_path, server.url, quiet=False, prices=Prices(10, 100))
        assert command.annotate(chosen) == 0
    told = capsys.readouterr()
    assert re.search(r"6/6 done, 6 accepted, 0 rejected, [\d,]+ requests/min", told.err)
    assert "600 + 300 tokens, cost 0.0360" in told.err and KEY not in told.err + told.out
    summary = json.loads((tmp_path / "out/annotation.json").read_text())
    assert (summary["accepted"], summary["cost"], summary["model"]) == (6, 0.036, "strong")
    assert summary["spent"]["answer"] == {"requests": 6, "prompt_tokens": 600, "completion_tokens": 300}


@pytest.mark.parametrize("cap", ["", ":cap=1"])
def test_columns_that_are_not_used_are_said(cap: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"How many in {n}?", "answer": str(n), "kind": "animal"} for n in range(2)]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command.dry_run(Options([f"{path}{cap}"], tmp_path / "out", "strong", quiet=True))
    used = "1 row" if cap else "2 rows"
    assert f"annotate: {path}: column 'kind' was not used in {used} (line 1: kind 'animal'" in capsys.readouterr().err


def test_a_cost_limit_stops_cleanly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    prices = Prices(10, 1000)  # 0.051 a request, held back with 0.1 for 100 tokens
    with ChatServer(right) as server:
        fields: dict[str, Any] = {"prices": prices, "max_tokens": 100}
        assert command.annotate(options(tmp_path, server.url, max_cost=0.3, **fields)) == command.COST_REACHED
        first = read_lines(tmp_path / "out/train.jsonl")
        assert 0 < len(first) == len(server.answered) < 6
        summary = json.loads((tmp_path / "out/annotation.json").read_text())
        assert summary["undecided"] == 6 - len(first) and summary["cost"] <= 0.3
        assert (tmp_path / "out/rejected.jsonl").read_text() == ""
        assert command.annotate(options(tmp_path, server.url, max_cost=3.0, **fields)) == 0
        assert len(server.answered) == 6
    assert len(read_lines(tmp_path / "out/train.jsonl")) == 6


def test_interrupted_it_waits_for_what_is_in_flight(tmp_path: Path) -> None:
    with ChatServer(lambda asked: Answer(right(asked).text, delay=0.2)) as server:

        def interrupt() -> None:
            server.wait_for_answers(2)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        assert command.annotate(options(tmp_path, server.url, range(10, 40))) == command.INTERRUPTED
        kept = read_lines(tmp_path / "out/journal.jsonl")
        assert 2 <= len(kept) == len(server.answered) < 30, "a reply in flight was thrown away"
        assert len(read_lines(tmp_path / "out/train.jsonl")) <= len(kept)


def test_what_the_api_did_not_answer_is_asked_again_by_the_same_command(tmp_path: Path) -> None:
    def failing(asked: Asked) -> Answer:
        return Answer(status=500) if "card 3?" in asked.task else right(asked)

    with ChatServer(failing) as server:
        assert command.annotate(options(tmp_path, server.url)) == command.UNANSWERED
    (line,) = read_lines(tmp_path / "out/rejected.jsonl")
    assert (line["id"], line["problem"], line["line"]) == ("card-3", "unanswered", 4)
    assert "no answer after 2 tries (HTTP 500" in line["message"]
    with ChatServer(right) as server:
        assert command.annotate(options(tmp_path, server.url)) == 0
        assert len(server.answered) == 1
    assert [each["id"] for each in read_lines(tmp_path / "out/train.jsonl")] == [f"card-{n}" for n in range(6)]
    assert (tmp_path / "out/rejected.jsonl").read_text() == ""


def test_a_wrong_key_ends_the_run_in_one_line_without_the_key(tmp_path: Path) -> None:
    refusing = Answer(status=401, error={"message": f"Incorrect API key provided: {KEY}."})
    with ChatServer(lambda asked: refusing) as server:
        with pytest.raises(ApiError, match=r"\[key\]") as caught:
            command.annotate(options(tmp_path, server.url))
        assert len(server.seen) <= 2, "went on after a wrong key"
    assert KEY not in str(caught.value)
    for path in (tmp_path / "out").glob("*.json*"):
        assert KEY not in path.read_text()


def test_a_full_disk_ends_the_run_before_more_is_paid_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Appender.add

    def full(self: Appender, line: dict[str, Any]) -> None:
        if self.path.stat().st_size > 500:
            raise OSError(28, "No space left on device")
        whole(self, line)

    with ChatServer(right) as server:
        monkeypatch.setattr(Appender, "add", full)
        with pytest.raises(ConfigError, match=r"cannot be kept .No space left"):
            command.annotate(options(tmp_path, server.url, range(10, 40)))
        assert len(server.answered) <= 5, "went on paying for what it could not keep"
        monkeypatch.setattr(Appender, "add", whole)
        assert command.annotate(options(tmp_path, server.url, range(10, 13))) == 0


def test_files_are_written_while_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "WRITE_EVERY", 0.0)
    found: list[int] = []

    def script(asked: Asked) -> Answer:
        if "card 3?" in asked.task:
            time.sleep(2)
            found.append(len(read_lines(tmp_path / "out/train.jsonl")))
        return right(asked)

    with ChatServer(script) as server:
        command.annotate(options(tmp_path, server.url, range(4)))
    assert found == [3]


def test_rejected_records_say_why_and_broken_ones_stop_nothing(tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        if "card 1?" in asked.task:
            return Answer(staged("99"))
        if "card 2?" in asked.task:
            return Answer(status=400, error={"message": "content policy"})
        return right(asked)

    with ChatServer(script) as server:
        chosen = options(tmp_path, server.url, retries=1)
        picture = tmp_path / "cards/4.png"
        picture.write_bytes(picture.read_bytes()[:-20])
        assert command.annotate(chosen) == 0
    found = {line["id"]: line for line in read_lines(tmp_path / "out/rejected.jsonl") if "id" in line}
    assert {name: (line["problem"], line["attempts"]) for name, line in found.items()} == {
        "card-1": ("wrong-answer", 2), "card-2": ("bad-request", 1),
    }  # fmt: skip
    assert "content policy" in found["card-2"]["message"] and "'99'" in found["card-1"]["message"]
    problems = [line["problem"] for line in read_lines(tmp_path / "out/rejected.jsonl")]
    assert problems == ["wrong-answer", "bad-request", "broken-image"]


def test_a_dry_run_sends_nothing_writes_nothing_and_needs_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ChatServer(right) as server:
        chosen = options(tmp_path, server.url, range(8, 12), prices=Prices(10, 100))
        monkeypatch.delenv(command.KEY)
        before = sorted(tmp_path.rglob("*"))
        assert command.dry_run(chosen) == 0
        told = capsys.readouterr().out
        assert sorted(tmp_path.rglob("*")) == before and not server.seen
        assert "records to annotate: 4 of 4" in told
        assert re.search(r"^requests: 5 .* to 30 ", told, re.MULTILINE), (
            "5 turns; 3 attempts each, and a judge for each"
        )
        assert re.search(r"^completion tokens: 2,250 ", told, re.MULTILINE)
        assert re.search(r"^cost: 0\.2\d to \d", told, re.MULTILINE)
        command.annotate(options(tmp_path, server.url, range(8, 10)))
        capsys.readouterr()
        command.dry_run(options(tmp_path, server.url, range(8, 12), prices=Prices(10, 100)))
        told = capsys.readouterr().out
        assert "records to annotate: 2 of 4" in told and re.search(r"^requests: 2 ", told, re.MULTILINE)
        assert re.search(r"^completion tokens: 100 ", told, re.MULTILINE), "answers are as long as those paid for"


def test_a_verifier_that_wants_log_probs_gets_a_local_model(tmp_path: Path) -> None:
    def p_true(asked: Asked) -> Answer:
        return right(asked)

    fields: dict[str, Any] = {"verifier": "p-true", "min_score": 0.0}
    with ChatServer(p_true) as server:
        with pytest.raises(ConfigError, match="add --verifier-model"):
            command.annotate(options(tmp_path, server.url, range(2), **fields))
        chosen = options(tmp_path, server.url, range(2), verifier_model="pocket", **fields)
        assert command.annotate(chosen) == 0
        assert len(server.answered) == 2, "an answer was paid for twice"
    assert len(read_lines(tmp_path / "out/train.jsonl")) == 2


def test_the_verifiers_model_may_be_in_a_backend_of_ones_own(tmp_path: Path) -> None:
    place = tmp_path / "mine.py"
    place.write_text(
        "from structdecode.core.lookup import load_backend\n"
        f"def load(model):\n    open({str(tmp_path / 'asked')!r}, 'w').write(model)\n    return load_backend(model)\n"
    )
    fields: dict[str, Any] = {"verifier": "p-true", "min_score": 0.0, "verifier_backend": f"{place}:load"}
    with ChatServer(right) as server:
        assert command.annotate(options(tmp_path, server.url, range(1), verifier_model="pocket", **fields)) == 0
    assert Path(tmp_path / "asked").read_text().endswith("checkpoint")
    assert json.loads((tmp_path / "out/annotation.json").read_text())["verifier_backend"] == f"{place}:load"


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"concurrency": 0}, ConfigError, "--concurrency must be at least 1, not 0"),
        ({"retries": -1}, ConfigError, "--retries"), ({"max_cost": 5.0}, ConfigError, "--price-in"),
        ({"max_cost": -5.0, "prices": Prices(1)}, ConfigError, "above 0, not -5"),
        ({"verifier": "rule"}, ConfigError, "--min-score"), ({"settings": ["a=1"]}, ConfigError, "for a --verifier"),
        ({"verifier_backend": "transformers"}, ConfigError, "--verifier-backend are for a --verifier"),
        ({"verifier": "rule", "min_score": 1.0, "settings": ["pattern=1"], "verifier_backend": "tranformers"}, UnknownNameError, "did you mean 'transformers'"),
        ({"verifier": "ruel", "min_score": 1.0}, UnknownNameError, "did you mean 'rule'"),
        ({"verifier": "rule", "min_score": 1.0, "settings": ["a"]}, ConfigError, "key=value"),
        ({"extra": "{"}, ConfigError, "--extra-body: not JSON"), ({"extra": "[1]"}, ConfigError, "JSON object"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(
    fields: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        command.annotate(options(tmp_path, "http://127.0.0.1:9/v1", **fields))


def test_a_price_below_nought() -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        Prices(-1)


@pytest.mark.parametrize("act", [command.annotate, command.dry_run])
def test_no_usable_record_and_no_key(
    act: Callable[[Options], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"no usable record: .*empty\.jsonl:1: not JSON"):
        act(Options([str(tmp_path / "empty.jsonl")], tmp_path / "out", "m", base_url="http://127.0.0.1:9/v1"))
    assert (tmp_path / "out/rejected.jsonl").exists() == (act is command.annotate)
    if act is command.annotate:
        (line,) = read_lines(tmp_path / "out/rejected.jsonl")
        assert (line["line"], line["problem"]) == (1, "bad-json")
        monkeypatch.delenv(command.KEY)
        with pytest.raises(ConfigError, match="set OPENAI_API_KEY"):
            act(options(tmp_path, None))


class FailsAtCard3(AnswerCheck):
    async def problem(self, conclusion: str, question: Question, api: ApiBackend, seed: tuple[int, str]) -> str | None:
        if "card 3?" in question.text:
            raise RuntimeError("two\nlines")
        return await super().problem(conclusion, question, api, seed)


class Faulty(Options):
    def annotator(self, client: ChatClient, last_word: Filter | None) -> Annotator:
        return replace(super().annotator(client, last_word), answers=FailsAtCard3())


@pytest.mark.parametrize("max_cost", [None, 0.3])
def test_an_error_of_our_own_is_told_and_shows_in_the_exit_code(
    max_cost: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def chosen(kind: type[Options], url: str) -> Options:
        given = options(tmp_path, url, prices=Prices(10, 1000), max_tokens=100, concurrency=1, max_cost=max_cost)
        return kind(**{each.name: getattr(given, each.name) for each in fields(Options)})

    with ChatServer(right) as server:
        assert command.annotate(chosen(Faulty, server.url)) == command.FAILED
        told = [line for line in capsys.readouterr().err.splitlines() if "RuntimeError" in line]
        assert len(told) == 1 and "card-3: RuntimeError: two lines" in told[0]
        (line,) = read_lines(tmp_path / "out/rejected.jsonl")
        assert (line["id"], line["problem"]) == ("card-3", "failed")
        if max_cost is None:
            assert command.annotate(chosen(Options, server.url)) == 0
            assert len(server.answered) == 6, "a reply was paid for twice"


class Raising:
    async def score(self, prompt: Any, candidates: Any, model: Any) -> Any:
        raise RuntimeError("no such file: judge.bin")


class Verified(Options):
    def filter(self) -> Filter:
        return Filter(Raising(), "raising", 0.5)


def test_a_verifier_that_fails_shows_in_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatServer(right) as server:
        given = options(tmp_path, server.url)
        verified = Verified(**{each.name: getattr(given, each.name) for each in fields(Options)})
        assert command.annotate(verified) == command.FAILED
        told = capsys.readouterr().err
        assert "0 accepted, 6 rejected (verifier-failed 6)" in told
        assert (
            "6 records failed by a fault" in told and "the first card-0: Raising failed: RuntimeError: no such" in told
        )
        assert command.annotate(given) == 0 and len(server.answered) == 6


def test_a_picture_that_cannot_be_placed_shows_in_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ChatServer(right) as server:
        given = options(tmp_path, server.url)
        first = read_lines(Path(given.sources[0]))[0]["image"]
        (tmp_path / "out" / Path(given.sources[0]).stem / first).mkdir(parents=True)
        assert command.annotate(given) == command.FAILED
        told = capsys.readouterr().err
        assert "5 accepted, 1 rejected (image-not-placed 1)" in told
        assert "1 records failed by a fault" in told and ":1: image" in told


def test_more_fields_of_a_request_are_sent(tmp_path: Path) -> None:
    with ChatServer(right) as server:
        command.annotate(options(tmp_path, server.url, range(1), extra='{"top_k": 20}', temperature=0.5))
        assert server.seen[0].body["top_k"] == 20 and server.seen[0].body["temperature"] == 0.5


@pytest.mark.parametrize("order", [range(30), [n for n in range(30) if n % 6] + list(range(0, 30, 6))])
def test_refused_records_are_journalled_and_the_same_command_ends_with_the_same_bytes(
    order: Any, tmp_path: Path
) -> None:
    def script(asked: Asked) -> Answer:
        number = int(re.findall(r"\d+", asked.task)[0])
        return (
            right(asked) if number % 6 == 0 else Answer(status=400, error={"message": "this picture may not be shown"})
        )

    with ChatServer(script) as server:
        chosen = options(tmp_path, server.url, order, concurrency=1)
        if order[0]:  # twenty refused in a row look like a server that is set up wrong; the same command gets past them
            with pytest.raises(ApiError, match="the first 20 requests were all refused"):
                command.annotate(chosen)
        assert command.annotate(chosen) == 0
        files = {
            name: (tmp_path / "out" / name).read_bytes() for name in ("train.jsonl", "rejected.jsonl", "journal.jsonl")
        }
        assert (
            len(read_lines(tmp_path / "out/rejected.jsonl")) == 25
            and len(read_lines(tmp_path / "out/train.jsonl")) == 5
        )
        asked = sum(server.asked.values())
        for _ in range(2):
            assert command.annotate(chosen) == 0
        assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files
        assert sum(server.asked.values()) == asked


@pytest.mark.parametrize("text", ["\0", "\ufeff", "<image>", "<|image|>", "<|image_pad|>", "[IMG]"])
def test_what_data_check_refuses_is_asked_for_again(text: str, tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        whole = right(asked)
        assert whole.text is not None
        return (
            whole
            if asked.attempt > 1 or asked.judging
            else Answer(whole.text.replace("</REASONING>", f"{text} </REASONING>"))
        )

    with ChatServer(script) as server:
        assert command.annotate(options(tmp_path, server.url, range(2))) == 0
        assert len(read_lines(tmp_path / "out/train.jsonl")) == 2
        assert any("This answer cannot be used" in said for seen in server.seen for said in seen.texts)
    answers = [row["conversations"][1]["value"] for row in read_lines(tmp_path / "out/train.jsonl")]
    assert len(answers) == 2 and not any(text in answer for answer in answers)
    assert not check(tmp_path / "out/train.jsonl").errors


def test_a_question_that_data_check_refuses_is_not_paid_for(tmp_path: Path) -> None:
    marked = record(1)
    marked["conversations"][0]["value"] = "What is <|image|> here?"
    table = tmp_path / "table.csv"
    table.write_text("id,question,answer\n1,How many [IMG]?,2\n")
    sources = [str(write_records(tmp_path, [marked, record(2)])), str(table)]
    with ChatServer(right) as server:
        chosen = Options(sources, tmp_path / "out", "strong", "judge", server.url, quiet=True)
        assert command.annotate(chosen) == 0
        assert len(server.answered) == 1
    problems = [line["problem"] for line in read_lines(tmp_path / "out/rejected.jsonl")]
    assert problems == ["image-token-in-text"] * 2
