"""Released reward models by recipe: one adapter, a file for each model."""

from structdecode.verifiers.recipes.verifier import OutcomeReward as OutcomeReward
from structdecode.verifiers.recipes.verifier import ProcessReward as ProcessReward
