"""``structdecode train-verifier``: from a recipe to a reward model, and what is said at the end."""

from __future__ import annotations

from pathlib import Path

from structdecode.training.reward_model.recipe import VerifierRecipe


def run(recipe: VerifierRecipe, out: Path, *, trust_remote_code: bool, quiet: bool) -> None:
    """Trains, and prints the held-out figures. Errors are those of `structdecode.training.reward_model.run.train`."""
    from structdecode.training.probe.fit import table as fitted
    from structdecode.training.reward_model.card import table
    from structdecode.training.reward_model.run import train

    done = train(recipe, out, trust_remote_code=trust_remote_code, quiet=quiet)
    if recipe.method == "probe":
        print(
            f"Fitted in {done.steps} steps. On questions out of fold (± one standard error):\n\n{fitted(done.figures)}\n"
        )
        print(f"Wrote {done.model}: use it with --verifier probe --set verifier.path={done.model}")
        return
    print(f"Trained {done.steps} steps. On held-out questions (± one standard error):\n\n{table(done.figures)}\n")
    print(f"Wrote {done.model}: use it with --verifier reward-model --set verifier.path={done.model}")
