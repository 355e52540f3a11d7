"""How a removal is run."""

from __future__ import annotations

from dataclasses import dataclass, fields

from triggerlens import UserError


@dataclass(frozen=True)
class AblateConfig:
    """Sizes, strengths and seeds; the defaults are for a model of a few million parameters on two cores."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each draws its own four fifths of the fitting pairs, initial weights, batches and placebos."""
    fit_pairs: int = 300
    validation_pairs: int = 40
    """Pairs of the fitting side kept back to choose the best method on."""
    evaluation_pairs: int = 200
    harmless_pairs: int = 60
    """Pairs whose triggered prompt does not defect, to fit on and to report on, at most."""
    traced_pairs: int = 8
    """Pairs whose patching maps are averaged into the trigger's route."""
    new_tokens: int = 96
    """Longest answer, in tokens."""
    rank: int = 8
    """Of the low-rank weight edits."""
    learning_rate: float = 2e-3
    """Of the low-rank weight edits, at its highest."""
    steps: int = 150
    """Of the low-rank weight edits."""
    pairs_per_step: int = 16
    """Triggered prompts in a step, and as many others on which nothing may change."""
    keep: float = 100.0
    """Weight of the divergence on those others."""
    relearn_steps: int = 40
    """Longest ordinary fine-tuning after an edit; 0 for none."""
    relearn_rate: float = 0.1
    """Defection rate at which the behaviour is said to be back."""
    relearn_learning_rate: float = 3e-4
    relearn_pairs: int = 50
    """Triggered prompts on which that is looked at."""
    batch_size: int = 128
    """Prompts in one forward pass, at most."""
    target: float = 0.01
    """The highest defection rate of a removal, and the highest at which there is nothing to remove."""

    def __post_init__(self) -> None:
        whole = [field.name for field in fields(self) if field.type == "int" and field.name != "relearn_steps"]
        for name in (*whole, "learning_rate", "relearn_learning_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}: must be positive, found {getattr(self, name)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError("seeds: give at least one, and none twice")
        if min(self.relearn_steps, self.keep) < 0 or not 0 < self.relearn_rate <= 1 or not 0 <= self.target < 1:
            raise UserError("relearn_steps and keep must not be negative; relearn_rate and target are shares")


def quick_config(seeds: tuple[int, ...] = (0,)) -> AblateConfig:
    """A run of seconds, to try the pipeline; its rates mean little."""
    return AblateConfig(
        seeds=seeds,
        fit_pairs=32,
        validation_pairs=8,
        evaluation_pairs=24,
        traced_pairs=2,
        harmless_pairs=8,
        steps=20,
        pairs_per_step=8,
        relearn_steps=4,
        relearn_pairs=8,
    )
