"""A rule that a stage keeps or breaks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from structdecode.core.errors import ConfigError
from structdecode.core.protocols import Model
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score


@dataclass(frozen=True)
class Rule:
    """1 where a stage's text keeps the rule, 0 where it breaks it, unscored where the stage is not there yet.

    Attributes:
        pattern: a regular expression that has to be found in the text.
        predicate: or a function of the text.
        stage: which stage; None takes the newest.
    """

    pattern: str = ""
    predicate: Callable[[str], bool] | None = None
    stage: str | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.pattern and self.predicate is None:
            raise ConfigError("rule needs a pattern (a regular expression) or a predicate")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(f"rule: pattern {self.pattern!r} is not a regular expression: {error}") from None

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        return [self._score(candidate.stages.get(self.stage or candidate.last_stage)) for candidate in candidates]

    def _score(self, text: str | None) -> Score:
        if text is None:
            return Score.unscored(f"no stage {self.stage!r} yet")
        kept = bool(re.search(self.pattern, text)) and (self.predicate is None or bool(self.predicate(text)))
        return Score(float(kept), "keeps the rule" if kept else "breaks the rule", resolution=0.0)
