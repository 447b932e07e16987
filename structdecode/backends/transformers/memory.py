"""What memory is left, and whether an error says that there was too little."""

from __future__ import annotations

import os

import torch


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on an accelerator or in main memory."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated, None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
