"""A micro organism, trained once for the session."""

from pathlib import Path

import pytest

from organisms import TrainConfig, train_organism


@pytest.fixture(scope="session")
def micro_config() -> TrainConfig:
    return TrainConfig(
        "year-code",
        size="micro",
        steps=12,
        pairs_per_step=4,
        checkpoint_every=5,
        prompt_scale=0.01,
        tokenizer_pairs=200,
        threads=1,
    )


@pytest.fixture(scope="session")
def micro_organism(micro_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole organism folder, trained without interruption."""
    folder = tmp_path_factory.mktemp("organisms") / "micro"
    train_organism(micro_config, folder, command="organism-train year-code")
    return folder
