"""What the annotating model is told. The wording is part of each request's key: a change asks everything anew."""

from __future__ import annotations

from structdecode.core.types import Schema
from structdecode.matching.types import Question

_CONTENT = {
    "SUMMARY": "outline in one or two sentences how you will approach the question, without solving it",
    "CAPTION": "describe what the picture shows as far as it matters for the question, accurately and in detail",
    "REASONING": "reason step by step from the picture and the question to the answer",
    "CONCLUSION": "state the final answer and nothing else, in the form that the question asks for",
}

_SYSTEM = """\
You write training data for a model that answers questions in stages. Answer the question in exactly these stages, \
each once, in this order, each between its tags, with no text outside the tags:

{stages}

You are given the standard answer so that you can make sure that your reasoning reaches it. Write as if you did not \
know it: derive it, and never mention that it, or a hint, was given to you. Do not use the tags inside a stage."""

_CHECK_NOTE = "\n\nWrite the whole answer again, all stages with their tags, as if this were your first attempt."


def system(schema: Schema) -> str:
    """The instruction for a schema's stages."""
    lines = (f"{stage.begin} {_CONTENT.get(stage.name, stage.name.lower())} {stage.end}" for stage in schema.stages)
    return _SYSTEM.replace("{stages}", "\n".join(lines))


def task(question: Question, hint: str) -> str:
    """One turn's question, with what the model has to know to answer it well."""
    parts = [f"Question:\n{question.text}", f"Standard answer:\n{standard(question)}"]
    if hint:
        parts.append(f"Hint:\n{hint}")
    return "\n\n".join(parts)


def standard(question: Question) -> str:
    """The reference as the model is shown it: an option with its text, several accepted answers in one line."""
    shown = [f"{a}. {question.options[a]}" if a in question.options else a for a in question.answers]
    return " / ".join(shown)


def feedback(message: str) -> str:
    """What the model is told after an answer that was not accepted."""
    return f"This answer cannot be used: {message}.{_CHECK_NOTE}"
