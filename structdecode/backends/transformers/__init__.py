"""Local models through transformers: any image-text-to-text checkpoint, or a model already loaded."""

from structdecode.backends.transformers.backend import TransformersBackend

__all__ = ["TransformersBackend"]
