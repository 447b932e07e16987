"""What most commands of the tests need, loaded once by the server of `tests.processes`."""

import structdecode.backends.transformers
import structdecode.cli.main
import structdecode.evaluation.commands
import structdecode.evaluation.report.writing
import structdecode.training.pocket.model
import structdecode.training.reward_model.run
import structdecode.training.sft.run  # noqa: F401
