"""What a model raises on its own work, whatever that is, as one line of ours with its error as the cause."""

from __future__ import annotations

from structdecode.backends.transformers.memory import out_of_memory
from structdecode.core.errors import BudgetSpent, ModelFailedError, StructdecodeError


def model_failure(error: Exception) -> Exception:
    """What a request fails with after an error of the model's: itself where it is ours already."""
    if isinstance(error, StructdecodeError | BudgetSpent):
        return error
    if out_of_memory(error):
        message = "the model ran out of memory: lower max_rows or prefix_cache_bytes, or use a smaller dtype or picture"
    else:
        first = str(error).strip().split("\n")[0][:300]
        message = f"the model failed: {type(error).__name__}: {first}; `structdecode doctor` looks at how it decodes"
    failure = ModelFailedError(message)
    failure.__cause__ = error
    return failure
