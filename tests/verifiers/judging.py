"""A judge's server and searches that ask it, also as a program of its own (see `main`)."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import structdecode as sd
from structdecode.core.engine import run_sync
from structdecode.strategies.best_of_n import BestOfN
from structdecode.verifiers.llm_judge import LlmJudge
from tests.training.annotation.server import Answer, Asked

KEY = "sk-secret-0123456789"
QUESTIONS = 24
N = 4


def token(text: str, top: Mapping[str, float]) -> dict[str, Any]:
    """A token's entry in a reply; ``top`` has probabilities."""
    named = [{"token": name, "logprob": math.log(value)} for name, value in top.items()]
    return {"token": text, "logprob": math.log(top.get(text, 1e-9)), "top_logprobs": named}


def grade(asked: Asked) -> Answer:
    """A level from 1 to 5 that depends on what is asked."""
    level = 1 + int(sha256(asked.texts[-1].encode()).hexdigest(), 16) % 5
    top = {str(level): 0.6, str(1 + level % 5): 0.3, "x": 0.1}
    return Answer(str(level), log_probs=[token(str(level), top)], usage={"prompt_tokens": 40, "completion_tokens": 1})


def scripted(prompt: sd.Prompt, prefix: sd.Candidate, stage: sd.Stage, seed: int) -> str:
    return f"{stage.name.lower()} {seed % 1000} of {prompt.question}{stage.end}"


def search(verifier: LlmJudge, questions: int = QUESTIONS, **more: Any) -> dict[int, sd.Result]:
    """Best of 4 answers to each of some questions, all at once."""

    async def run() -> dict[int, sd.Result]:
        found = sd.decode_many(
            [f"question {n}?" for n in range(questions)], backend=sd.ScriptedBackend(scripted),
            strategy=BestOfN(n=N, verifier=verifier), **more,
        )  # fmt: skip
        return {number: result async for number, result in found}

    return run_sync(run())


def main() -> None:
    """``URL CACHE GO``: says "ready", begins when the file GO is there, and prints how many requests were billed, and the
    questions that have an unscored candidate.
    """
    url, cache, go = sys.argv[1:]
    print("ready", flush=True)
    while not Path(go).exists():
        time.sleep(0.005)
    results = search(LlmJudge("strong", url, cache=cache, concurrency=4))
    unscored = [n for n, result in results.items() if any(not r.score.scored for r in result.candidates)]
    print(sum(result.usage.api_calls for result in results.values()), unscored)


if __name__ == "__main__":
    main()
