"""A small OpenAI-compatible server: real HTTP on 127.0.0.1, replies from the content of each request, everything counted."""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """A request as a script sees it. ``times``: how often this very content came before."""

    body: dict[str, Any]
    times: int
    headers: dict[str, str]

    @property
    def texts(self) -> list[str]:
        return [_text(message["content"]) for message in self.body["messages"]]

    @property
    def attempt(self) -> int:
        """From 1: how often the newest question was answered, and the answer found wanting."""
        return 1 + sum("This answer cannot be used" in text for text in self.texts)

    @property
    def task(self) -> str:
        """The newest question with its standard answer."""
        return [text for text in self.texts if text.startswith("Question:")][-1]

    @property
    def judging(self) -> bool:
        return "<reference>" in self.texts[-1]

    @property
    def pictures(self) -> list[tuple[str, bytes]]:
        """MIME type and bytes."""
        found = []
        for message in self.body["messages"]:
            for part in message["content"] if isinstance(message["content"], list) else []:
                if part["type"] == "image_url":
                    header, _, data = part["image_url"]["url"].partition(";base64,")
                    found.append((header.removeprefix("data:"), base64.b64decode(data)))
        return found


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


@dataclass(frozen=True)
class Answer:
    """What goes back; ``raw`` in place of a chat completion. ``log_probs``: entries of the tokens, as OpenAI has them."""

    text: str | None = ""
    status: int = 200
    finish: str = "stop"
    refusal: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    delay: float = 0.0
    error: dict[str, Any] = field(default_factory=lambda: {"message": "no"})
    usage: dict[str, int] | None = field(default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 50})
    log_probs: list[dict[str, Any]] | None = None


class ChatServer:
    """Use as a context manager.

    Attributes:
        asked: content -> how often it came. answered: contents that got a whole chat completion, in order (these are
            paid for). active, most: requests in the server now, and at most.
    """

    def __init__(self, script: Callable[[Asked], Answer]) -> None:
        self.script = script
        self.asked: Counter[str] = Counter()
        self.answered: list[str] = []
        self.seen: list[Asked] = []
        self.times: list[float] = []
        self.active = self.most = 0
        self.lock = threading.Lock()
        self.http = _Http(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def settle(self) -> None:
        """Waits until no request is in the server, and none has come for half a second."""
        end = time.monotonic() + 60
        came, since = -1, 0.0
        while time.monotonic() < end and (self.active or came != len(self.seen) or time.monotonic() - since < 0.5):
            if self.active or came != len(self.seen):
                came, since = len(self.seen), time.monotonic()
            time.sleep(0.01)

    def wait_for_answers(self, count: int, seconds: float = 900.0) -> None:
        end = time.monotonic() + seconds
        while len(self.answered) < count:
            assert time.monotonic() < end, f"{len(self.answered)} of {count} answers after {seconds} s"
            time.sleep(0.005)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error here; any other is told."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _handler(server: ChatServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            data = self.rfile.read(length)
            if len(data) < length:  # the client was killed as it sent
                self.close_connection = True
                return
            body = json.loads(data)
            content = sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:24]
            with server.lock:
                asked = Asked(
                    body, server.asked[content], {name.lower(): value for name, value in self.headers.items()}
                )
                server.asked[content] += 1
                server.seen.append(asked)
                server.times.append(time.monotonic())
                server.active += 1
                server.most = max(server.most, server.active)
            try:
                answer = server.script(asked)
                time.sleep(answer.delay)
                self._send(answer, content)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with server.lock:
                    server.active -= 1

        def _send(self, answer: Answer, content: str) -> None:
            message = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
            choice = {"index": 0, "message": message, "finish_reason": answer.finish}
            if answer.log_probs is not None:
                choice["logprobs"] = {"content": answer.log_probs}
            good = {
                "id": f"chatcmpl-{content}", "object": "chat.completion", "created": 0, "model": "test",
                "choices": [choice],
                **({"usage": answer.usage} if answer.usage else {}),
            }  # fmt: skip
            wire = good if answer.status == 200 else {"error": answer.error}
            data = json.dumps(wire).encode() if answer.raw is None else answer.raw
            if answer.status == 200 and answer.raw is None:  # before the client can act on it
                with server.lock:
                    server.answered.append(content)
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
