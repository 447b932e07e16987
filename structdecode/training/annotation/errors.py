"""What ends a request, a record or the run. Only `ApiError` is for the user to read as it is."""

from __future__ import annotations

from structdecode.core.errors import StructdecodeError


class ApiError(StructdecodeError):
    """The API takes no request of this run: wrong key, unknown model, no credit. Ends the run; it can be resumed."""


class Stopped(Exception):
    """No more requests are to be sent: the cost limit is reached, or the user wants to stop."""


class Unanswered(Exception):
    """The API did not answer after many tries. The record stays undecided; a later start asks again."""


class BadRequest(Exception):
    """The API refuses this one request (a picture that is too large, a content policy). Nothing was paid."""


class NotInJournal(Exception):
    """The reply to a request is not in the journal, and nothing is to be sent."""
