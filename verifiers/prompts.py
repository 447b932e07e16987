"""What a model is asked as a verifier: by itself, or by `llm-judge`.

The wording is ours; what is asked follows LLaVA-o1 (arXiv 2411.10440, appendix on the judge; upstream file
`inference/demo/simple_inference.py`): a rubric per stage, earlier stages as a hint, reasoning checked alone
against the caption first. The rubric comes first and the responses last, so that prompts of one round share
their longest prefix. The embedded pocket model was trained on the very words of `self-judge` and `p-true` (RUBRICS,
WHOLE_ANSWER_RUBRIC, JUDGE, PRE_CHECK, P_TRUE): change them and it has to be trained again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

RUBRICS: Mapping[str, str] = {
    "SUMMARY": "A good summary outlines the approach and leaves the solving for later.",
    "CAPTION": "A good caption is accurate and thorough and adds nothing that is not in the picture.",
    "REASONING": "Good reasoning has fewer errors: examine every step.",
    "CONCLUSION": "A good conclusion agrees with the reasoning and never refuses to answer.",
}
"""What to look for, by stage name."""

WHOLE_ANSWER_RUBRIC = "A good answer is correct in every part."
"""What to look for in a complete answer, and in a stage that has no rubric of its own."""

JUDGE = """\
Two responses are compared. {rubric}
{question}
{hint}Response 1: {first}
Response 2: {second}
Finish with I choose response 1 or I choose response 2."""

PRE_CHECK = """\
{question}
{hint}Proposed {stage}: {text}
Given the caption, is it correct or incorrect? Answer in one word."""

P_TRUE = """\
{question}
{hint}Proposed {stage}: {text}
Is it right? Answer yes or no."""

STATE = """\
{question}
{hint}Proposed {stage}: {text}"""
"""What the questions of `label-read` are about. It comes first: all questions of a candidate share it as their prefix."""

LABEL_READ = """\
{state}

Question: {instructions}
{options}{reply}"""
"""A question of `label-read`: the form of vLLM's structured decisions (`entrypoints/generate/structured_decisions`)."""

REPLIES: Mapping[str, str] = {
    "yes-no": "Answer with yes or no only.",
    "choice": "Answer with the letter of one option only.",
    "score": "Answer with the number of one level only.",
}
"""How a question of `label-read` is to be answered, by its kind; vLLM's words."""

IS_IT_RIGHT = "Is it right?"

CRITIQUE = """\
{question}
{hint}Proposed {stage}: {text}
Examine it step by step. Finish with yes if it is right and with no if it is not."""
"""What `generative` has the model think about first."""

VERDICT = "Is it right? Answer yes or no."
"""What `generative` asks behind a critique."""

ASK_AGAIN = """\
{question}
{given}Answer directly."""
"""How `consistency` asks the question again, one stage of an answer given."""

POINTWISE = """\
A response is graded. {rubric}
{question}
{hint}Proposed {stage}: {text}
Reply with one digit, from 1 (wrong) to {levels} (right in every part)."""

LISTWISE = """\
{count} responses are ranked. {rubric}
{question}
{hint}{responses}
Finish with the numbers of all {count} responses, the best first, in the form [] > [] > []."""


def hint_lines(stages: Mapping[str, str]) -> str:
    """Earlier stages as lines ahead of the text that is judged: ``Caption: ...``."""
    return "".join(f"{name.capitalize()}: {text}\n" for name, text in stages.items())


def fill(template: str, **values: str) -> str:
    """Puts values in place of ``{name}``, in one pass: braces and names inside a value are just text."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match.group(1), match.group(0)), template)
