"""The recipe in small: it learns, and a killed run goes on to the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from structdecode.backends.transformers import TransformersBackend
from structdecode.pocket.train import Recipe, Trainer

SMALL = Recipe(
    steps=6, batch=10, answers=6, verdicts=4, comparisons=2, pre_checks=2, verify_from=0.3, own_samples_from=0.5,
    own_samples_every=2, own_samples_batch=3, checkpoint_every=2,
)  # fmt: skip


def test_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = Trainer(SMALL, tmp_path / "whole")
    whole.run()

    class Killed(Exception):
        pass

    class Dies(Trainer):
        def train_step(self) -> dict[str, float]:
            if self.step == 5:
                raise Killed
            return super().train_step()

    with pytest.raises(Killed):
        Dies(SMALL, tmp_path / "parts").run()
    again = Trainer(SMALL, tmp_path / "parts")
    again.run()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert TransformersBackend.load(str(tmp_path / "parts" / "model")).name


def test_another_recipe_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    Trainer(SMALL, tmp_path).checkpoint()
    with pytest.raises(SystemExit, match="another recipe"):
        Trainer(Recipe(seed=9), tmp_path).run()


def test_loss_goes_down() -> None:
    trainer = Trainer(
        Recipe(steps=30, batch=16, answers=12, verdicts=2, comparisons=2, verify_from=1.0), Path("unused")
    )
    losses = [trainer.train_step()["answers"] for _ in range(30)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
