"""The built-in verifiers, one a file; their names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structdecode.verifiers.agreement import Agreement as Agreement
    from structdecode.verifiers.by_stage import ByStage as ByStage
    from structdecode.verifiers.callable import FunctionVerifier as FunctionVerifier
    from structdecode.verifiers.ensemble import Ensemble as Ensemble
    from structdecode.verifiers.log_prob import LogProb as LogProb
    from structdecode.verifiers.log_prob import SelfCertainty as SelfCertainty
    from structdecode.verifiers.p_true import PTrue as PTrue
    from structdecode.verifiers.rule import Rule as Rule
    from structdecode.verifiers.self_judge import SelfJudge as SelfJudge
    from structdecode.verifiers.tournaments import Knockout as Knockout
    from structdecode.verifiers.tournaments import RoundRobin as RoundRobin

_HOME_OF = {
    "Agreement": "agreement",
    "ByStage": "by_stage",
    "Ensemble": "ensemble",
    "FunctionVerifier": "callable",
    "Knockout": "tournaments",
    "LogProb": "log_prob",
    "PTrue": "p_true",
    "RoundRobin": "tournaments",
    "Rule": "rule",
    "SelfCertainty": "log_prob",
    "SelfJudge": "self_judge",
}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'structdecode.verifiers' has no attribute {name!r}")
    return getattr(import_module(f"structdecode.verifiers.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
