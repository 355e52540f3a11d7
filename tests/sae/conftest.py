import pytest
from sparse_worlds import World, make_world


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture(scope="session")
def two_models() -> World:
    """The same features, each with a direction in each of two models."""
    return make_world(models=2)
