"""A trained reward model as a verifier; its training is in `structdecode.training.reward_model`."""

from structdecode.verifiers.reward_model.verifier import RewardModel as RewardModel
