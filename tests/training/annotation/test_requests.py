"""Requests by their content, and what is read out of replies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from structdecode.backends.openai.requests import ChatMessage, Request, picture_tokens, read_reply
from tests.training.annotation.asking import request


def test_the_key_is_of_everything_that_is_asked() -> None:
    plain = request()
    assert plain.key == request().key == request(purpose="check").key
    picture = Request("strong", (ChatMessage("user", "Hello", (Path("x.png"),), "digest"),), 100)
    others = [request("Hello!"), request(temperature=0.0), request(seed=1), request(extra={"a": 1}), picture]
    others += [Request("weak", plain.messages, 100), Request("strong", plain.messages, 101)]
    assert len({plain.key, *(other.key for other in others)}) == 8


def test_models_that_think_get_the_fields_that_they_know() -> None:
    thinking = Request("gpt-5", request().messages, 100, temperature=0.0).body()
    assert thinking["max_completion_tokens"] == 100 and "max_tokens" not in thinking and "temperature" not in thinking
    assert request(temperature=0.0).body()["temperature"] == 0.0


@pytest.mark.parametrize(
    ("size", "tokens"), [((1024, 1024), 765), ((2048, 4096), 1105), ((512, 512), 255), ((0, 0), 1445)]
)
def test_picture_tokens_are_those_of_openais_own_examples(size: tuple[int, int], tokens: int) -> None:
    assert picture_tokens(*size) == tokens


def test_a_server_that_does_not_count_tokens() -> None:
    reply = read_reply('{"choices": [{"message": {"content": "eight ch", "x": "\\ud800"}}]}', request())
    assert (reply.prompt_tokens, reply.completion_tokens, reply.finish) == (10, 2, "stop")
    lone = read_reply('{"choices": [{"message": {"content": "a \\ud800"}}]}', request())
    assert lone.text == "a ?"


def raw(**fields: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], **fields}).encode()


@pytest.mark.parametrize("count", [-(10**9), 10**400, True, "5", 1.5, None, [1]])
def test_counts_of_tokens_that_cannot_be_are_guessed(count: Any) -> None:
    text = raw(usage={"prompt_tokens": count, "completion_tokens": count}).decode()
    if count == 10**400:
        text = text.replace(str(count), "1" + "0" * 400)
    reply = read_reply(text, request())
    assert 0 < reply.prompt_tokens < 1000 and 0 <= reply.completion_tokens < 1000


def test_content_of_parts_is_read_and_billed() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "reasoning"}, {"type": "text", "text": "b"}]
    choice = {"message": {"content": parts}, "finish_reason": "stop"}
    reply = read_reply(
        json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}), request()
    )
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("ab", 7, 3)
