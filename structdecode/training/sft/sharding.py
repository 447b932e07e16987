"""Weights, gradients and optimizer sharded over the processes: that they are, and on a CPU, too.

accelerate shards through `torch.distributed.fsdp.fully_shard`. It takes its plug-in for accelerators only: on CPUs
(1.15) it drops it without a word and every process trains a whole copy. `fully_shard` itself works over gloo, so there
accelerate is told; what it does then is the same code as on GPUs.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback

from structdecode.core.errors import ConfigError


def shard_on_cpu(trainer: Trainer) -> None:
    """Turns sharding on where the arguments ask for it and accelerate, on a CPU, left it out. Before anything is wrapped."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    wanted, state = trainer.args.fsdp_plugin_args, trainer.accelerator.state
    if wanted is None or trainer.is_fsdp_enabled or state.distributed_type is not DistributedType.MULTI_CPU:
        return
    plugin = FullyShardedDataParallelPlugin(**wanted)
    if state.mixed_precision != "no":
        plugin.set_mixed_precision(state.mixed_precision)
    # each new AcceleratorState (the optimizer makes one) takes its type from the PartialState again
    PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = plugin
    trainer.is_fsdp_enabled = True


class CheckSharded(TrainerCallback):
    """Ends a run before its first step where sharding was asked for and is not in force."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **_: Any) -> None:
        if args.fsdp and model is not None and not is_sharded(model):
            raise ConfigError(
                f"fsdp is asked for and is not in force on {args.device} with {args.world_size} processes: "
                "take it out, or train where accelerate shards (GPUs, or CPUs over gloo)"
            )


def is_sharded(model: nn.Module) -> bool:
    """Whether all weights that are trained are in parts on several processes, in FSDP's first or second form."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return True
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return bool(trained) and all(isinstance(p, DTensor) and p.device_mesh.size() > 1 for p in trained)
