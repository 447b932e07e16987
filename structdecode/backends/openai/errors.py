"""What a server's answer, or its silence, means for a request and for those behind it."""

from __future__ import annotations

from structdecode.core.errors import StructdecodeError


class ApiError(StructdecodeError):
    """The API takes no request: wrong key, unknown model, no credit. For the user to read as it is."""


class BadRequest(Exception):
    """The API refuses this one request (a picture that is too large, a content policy). Nothing was paid."""


class RequestFailed(Exception):
    """The server or the network failed; the same request may be answered later.

    Attributes:
        wait: seconds that the server asks to wait, infinite where it asks for too many; None where it says nothing.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class RateLimited(RequestFailed):
    """Too many requests: none of them is to be sent before ``wait`` is over."""


class LostReply(RequestFailed):
    """No reply in time, or one that nobody can use: the server may have worked, and may have to be paid, all the same."""


class Stopped(Exception):
    """No more requests are to be sent: the cost limit is reached, or nobody wants them any more."""


class Unanswered(Exception):
    """The API did not answer a request at any of its tries. It may be answered later."""
