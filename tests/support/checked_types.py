"""What the import hook of the tests puts before every function and dataclass of ours: all annotated types are checked, shapes where one is named.

jaxtyping binds the arguments and opens a memory of dimensions at each call. That is 6 to 15 microseconds, a third of what the tests
took, and only a function with a shape in its annotations needs it. The others are checked by beartype itself, which sees the same types.
"""

import inspect
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

_shapes = jaxtyping.jaxtyped
_types = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def install(packages: list[str]) -> None:
    """Checks the functions and dataclasses of all modules of `packages` that are imported from now on."""
    jaxtyping.jaxtyped = checked
    jaxtyping.install_import_hook(packages, "beartype.beartype")


def checked(thing=None, *, typechecker):
    """`jaxtyping.jaxtyped`, made quick for functions and dataclasses that name no shape."""
    if thing is None:
        return partial(checked, typechecker=typechecker)
    function = (
        vars(thing).get("__init__") if inspect.isclass(thing) and "__dataclass_fields__" in vars(thing) else thing
    )
    if type(function) is not FunctionType or inspect.isgeneratorfunction(function):
        return _shapes(thing, typechecker=typechecker)
    hints = {name: _resolved(hint, function.__globals__) for name, hint in function.__annotations__.items()}
    if any(map(_names_a_shape, hints.values())):
        return _shapes(thing, typechecker=typechecker)
    function.__annotations__ = hints
    if function is thing:
        return _types(function)
    thing.__init__ = _types(function)
    return thing


def _resolved(hint, names: dict):
    """A type for what may be its text; anything goes where the text names what is not there yet, as in jaxtyping."""
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"value": hint}), names, include_extras=True)["value"]
    except Exception:
        return Any


def _names_a_shape(hint) -> bool:
    if isinstance(hint, list | tuple):
        return any(map(_names_a_shape, hint))
    return "jaxtyping" in f"{getattr(hint, '__module__', '')} {type(hint).__module__}" or _names_a_shape(get_args(hint))
