"""Training of the verifier `probe`: a linear gated probe on the generator's own hidden states at the ends of stages.

`states` reads them once of answers in the rows of `structdecode export --to prm`, `fit` fits the probe and says how good
it is on questions that it was not fitted on, `run` is a whole training run. docs/training/probe.md.
"""
