"""Four-stage answers for visual question-answering data, written by a strong model behind an OpenAI-compatible API.

`sources` reads what there is to annotate · `annotator` asks, checks and asks again · `client` sends requests and
`journal` keeps each reply that was paid for · `run` writes ``train.jsonl`` and ``rejected.jsonl`` from them.
"""

from structdecode.training.annotation.annotator import Annotator
from structdecode.training.annotation.run import AnnotationResult, Settings, annotate
from structdecode.training.annotation.sources import Item, Source, Turn, read

__all__ = ["AnnotationResult", "Annotator", "Item", "Settings", "Source", "Turn", "annotate", "read"]
