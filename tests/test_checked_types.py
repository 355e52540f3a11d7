"""The tests' own check of types and shapes: what is wrong is refused wherever it stands, at the price that is meant."""

import sys
from dataclasses import dataclass

import checked_types
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import Float, TypeCheckError

checked = checked_types.checked(typechecker=beartype)


def plain(number: int, *, name: str = "x") -> "list[int]":
    return [number] if name == "x" else name


def shaped(rows: Float[np.ndarray, "row column"], row: int) -> Float[np.ndarray, " column"]:
    return rows[row] if row >= 0 else rows


@dataclass(frozen=True)
class Record:
    number: int


@dataclass(frozen=True)
class Shaped:
    left: Float[np.ndarray, " row"]
    right: Float[np.ndarray, " row"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: checked(plain)("1"),
        lambda: checked(plain)(1, name="a list is promised"),
        lambda: checked(shaped)(np.zeros(3), 0),
        lambda: checked(shaped)(np.zeros((2, 3)), "0"),
        lambda: checked(shaped)(np.zeros((2, 3)), -1),
        lambda: checked(Record)("1"),
        lambda: checked(Shaped)(np.zeros(2), np.zeros(3)),
    ],
)
def test_what_is_wrong_is_refused(wrong):
    with pytest.raises(TypeCheckError):
        wrong()


def test_what_is_right_passes():
    assert checked(plain)(1) == [1]
    assert checked(shaped)(np.zeros((2, 3)), 0).shape == (3,)
    assert checked(Record)(1).number == 1
    assert len(checked(Shaped)(np.zeros(2), np.zeros(2)).left) == 2


def test_a_name_that_is_not_there_yet_admits_anything():
    def later(thing: "NotThereYet", number: int) -> int:
        return number

    assert checked(later)(object(), 1) == 1
    with pytest.raises(TypeCheckError):
        checked(later)(object(), "1")


def test_the_rooms_are_checked():
    from hooked import Prompt
    from triggerlens import rate

    with pytest.raises(TypeCheckError):
        rate("1", 2)
    with pytest.raises(TypeCheckError):
        Prompt(prompt=1, triggered=True)
    assert any(type(finder).__module__ == "jaxtyping._import_hook" for finder in sys.meta_path)
