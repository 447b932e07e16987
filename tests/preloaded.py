"""What most commands of the tests need, loaded once by the server of `tests.processes`."""

import gc

import matplotlib.backends.backend_agg
import matplotlib.backends.backend_svg
import matplotlib.figure  # noqa: F401
import typer._adapters  # noqa: F401
from PIL import Image
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import structdecode.backends.transformers
import structdecode.cli.main
import structdecode.evaluation.commands
import structdecode.evaluation.report.writing
import structdecode.training.pocket.model
import structdecode.training.reward_model.run
import structdecode.training.sft.run  # noqa: F401

Image.preinit()
get_checkpoint_conversion_mapping("mllama")  # compiles a thousand patterns, once
gc.collect()
gc.freeze()  # what is loaded stays: no collection walks, and so copies, the memory that a fork shares
