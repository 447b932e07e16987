"""A judge behind an OpenAI-compatible chat API."""

from structdecode.verifiers.llm_judge.judge import LlmJudge as LlmJudge
