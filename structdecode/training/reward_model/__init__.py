"""A trained verifier: a process reward model over staged answers, made from what searches wrote.

A linear head over the last hidden state of an image-text model says, at the end of each stage, how likely all is right
so far (Lightman et al. 2023, arXiv 2305.20050; labels as in Math-Shepherd, Wang et al. 2023, arXiv 2312.08935, or by a
reference). `rows` reads what `structdecode export --to prm` wrote, `collate` finds where stages end, `model` is the
network and its directory, `run` trains it, `scoring` asks it. docs/training/reward-model.md has the recipe.
"""
