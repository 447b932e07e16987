"""The report of a comparison. One file a section; `write` puts them together."""

from structdecode.evaluation.report.writing import write

__all__ = ["write"]
