"""Asks a server questions with a closed set of answers: ``POST /v1/systemone``, as vLLM takes it."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from structdecode.core.border import ForeignValueError, number
from structdecode.core.budget import Usage
from structdecode.core.reading import cut, one_line, parse_json
from structdecode.verifiers.labels import Reading

_LARGEST = 16 << 20
"""Bytes of a reply: nothing behind them is read."""
_FIRST_WAIT = 0.5
"""Seconds before the second try; twice as long before each further one."""


class DecisionError(Exception):
    """What came back answers nothing."""


class _TryAgainError(DecisionError):
    """It may be otherwise the next time."""


async def decide(
    url: str, body: Mapping[str, Any], *, retries: int, timeout: float, charge: Callable[[Usage], None]
) -> Mapping[str, Any]:
    """The server's reply; each try is charged as a request.

    Raises:
        DecisionError: there is none, or none that is a mapping, after ``retries`` more tries.
    """
    data = json.dumps(body).encode()
    for left in range(retries, -1, -1):
        charge(Usage(api_calls=1))
        try:
            reply = await asyncio.to_thread(_post, url, data, timeout)
            break
        except _TryAgainError:
            if not left:
                raise
            await asyncio.sleep(_FIRST_WAIT * 2 ** (retries - left))
    if not isinstance(reply, Mapping):
        raise DecisionError(f"the reply is {type(reply).__name__}, not a mapping")
    return reply


def _post(url: str, data: bytes, timeout: float) -> Any:
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return parse_json(response.read(_LARGEST))
    except urllib.error.HTTPError as error:
        kind = _TryAgainError if error.code == 429 or error.code >= 500 else DecisionError
        raise kind(
            f"HTTP {error.code}: {cut(one_line(error.read(_LARGEST).decode('utf-8', 'replace')), 200)}"
        ) from None
    except (OSError, http.client.HTTPException) as error:  # no connection, time-out
        raise _TryAgainError(f"{type(error).__name__}: {error}") from None
    except ValueError:
        raise DecisionError("the reply is not JSON") from None


def reading_of(reply: Mapping[str, Any], name: str, keys: Sequence[str]) -> Reading:
    """A question's probabilities, by their names in its answer. The mass is 1 where the server does not say it.

    Raises:
        DecisionError: they are not there, or not probabilities.
    """
    try:
        answer = reply["answers"][name]
        found = answer.get("probabilities")
        if found is None and "noul" in answer:
            found = {"yes": answer["noul"], "no": 1 - number(answer["noul"])}
        values = [number(found[key]) for key in keys]
        mass = number(((reply.get("diagnostics") or {}).get(name) or {}).get("label_mass", 1.0))
    except (KeyError, TypeError, AttributeError, ForeignValueError):
        raise DecisionError(f"no probabilities of {', '.join(keys)} for {name!r}") from None
    total = math.fsum(values)
    if min(values) < 0 or total <= 0:
        raise DecisionError(f"the probabilities for {name!r} are {values}")
    return Reading(tuple(value / total for value in values), mass)
