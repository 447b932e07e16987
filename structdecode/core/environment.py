"""What a result was made with, in words for a reader."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("structdecode", "torch", "transformers", "numpy", "pillow", "scipy", "math-verify"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Words for a reader; nothing of it is part of a key."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}", "processor": platform.machine(), "cpus": os.cpu_count(),
    }  # fmt: skip
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found
