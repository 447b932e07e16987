"""Which checkpoint a directory holds: a digest of all that its answers come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from structdecode.core.errors import ConfigError
from structdecode.core.reading import open_regular

_MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.jinja", "*.model", "*.txt", "*.py", "chat_templates/*.jinja")
"""Weights, configuration, tokenizer, chat template, code of its own."""

_WHOLE_UP_TO = 256 << 20
"""Bytes up to which a weights file is hashed whole."""


def model_files(directory: Path) -> list[tuple[str, str]]:
    """Name and digest of each file that a checkpoint's answers come from, in order."""
    files = sorted({file for pattern in _MODEL_FILES for file in directory.glob(pattern)})
    return [(str(file.relative_to(directory)), file_digest(file)) for file in files]


def checkpoint_digest(directory: str | Path) -> str:
    """Of all of them; other weights at the same place are another checkpoint.

    Raises:
        ConfigError: a file cannot be read.
    """
    try:
        return hashlib.blake2b(repr(model_files(Path(directory))).encode(), digest_size=8).hexdigest()
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror or error}") from None


def file_digest(path: Path) -> str:
    """Of the whole file; of a very large one, of its size, beginning and end."""
    digest, size = hashlib.blake2b(str(path.stat().st_size).encode(), digest_size=16), path.stat().st_size
    with open_regular(path) as file:
        if size <= _WHOLE_UP_TO:
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            digest.update(file.read(1 << 24))
            file.seek(size - (1 << 24))
            digest.update(file.read())
    return digest.hexdigest()
