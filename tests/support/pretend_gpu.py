"""A pretend GPU: the CPU's numbers behind a device of another name, for machines that have none.

Importing this registers a device `accel` in torch's own slot for foreign backends, and `--device cuda` comes to mean it. Its
tensors compute on the CPU, so that results must be the CPU's; an operation that mixes them with a tensor of the CPU fails as it
would on a GPU, and so does making a numpy array of one. What it cannot show: the kernels, the memory and the speed of CUDA.

It changes torch for the whole process: import it in a process of its own.
"""

import torch
import torch.utils._device
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import hooked.plain

NAME = "accel"
UNMIXED = "tensors of several devices"

_COPYING = {"aten::copy_", "aten::_to_copy"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""Indices may lie on the CPU on a real GPU too."""


class _Backend:
    """What torch asks of a device's module."""

    def is_initialized(self):
        return True

    is_available = is_initialized

    def _is_in_bad_fork(self):
        return False

    def current_device(self):
        return 0

    def device_count(self):
        return 2

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, *_):
        return torch.get_rng_state()

    def manual_seed_all(self, *_):
        pass

    set_rng_state = synchronize = empty_cache = manual_seed_all


class Held(torch.Tensor):
    """A tensor of the pretend GPU; `raw` is the CPU's."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw, index=0):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=torch.device(NAME, index),
        )

    def __init__(self, raw, index=0):
        self.raw = raw

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _compute(operation, args, kwargs or {})

    # What torch does for a real device below the level that a subclass sees:

    def tolist(self):
        return self.raw.tolist()

    def storage(self):
        return self.raw.storage()

    def data_ptr(self):
        return self.raw.data_ptr()

    def untyped_storage(self):
        return self.raw.untyped_storage()

    def __deepcopy__(self, memo):
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        copied._is_param = getattr(self, "_is_param", False)
        return memo.setdefault(id(self), copied)

    def numpy(self, *_, **__):
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy")

    __array__ = numpy

    def __contains__(self, value):
        return value in self.raw

    def __format__(self, spec):
        return format(self.raw, spec)

    def new_tensor(self, data, **options):
        return torch.tensor(data, **{"dtype": self.dtype, "device": self.device} | options)

    def __getitem__(self, index):
        return torch.Tensor.__getitem__(self, _indices(index))

    def __setitem__(self, index, value):
        torch.Tensor.__setitem__(self, _indices(index), value)

    def __matmul__(self, other):  # a vector's product is squeezed in place, which the wrapper cannot follow
        return (self[None] @ other)[0] if self.ndim == 1 and other.ndim == 2 else torch.Tensor.__matmul__(self, other)


def _indices(index):
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(torch.tensor(leaf, device=NAME) if isinstance(leaf, list) else leaf for leaf in parts)


def _compute(operation, args, kwargs):
    """One operation, on the CPU's tensors."""
    leaves, shape = pytree.tree_flatten((args, kwargs))
    held = [leaf for leaf in leaves if isinstance(leaf, Held)]
    plain = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Held)]
    places = {leaf.device for leaf in held}
    name = operation._schema.name
    mixed = held and name not in _INDEXING and any(leaf.ndim for leaf in plain)
    if name not in _COPYING and (len(places) > 1 or mixed):
        raise RuntimeError(f"{name}: {UNMIXED}")
    asked = kwargs.get("device")
    place = torch.device(asked) if asked is not None else held[0].device if held else torch.device("cpu")
    here = place.type == NAME
    raw = [
        leaf.raw if isinstance(leaf, Held) else torch.device("cpu") if isinstance(leaf, torch.device) else leaf
        for leaf in leaves
    ]
    raw_args, raw_kwargs = pytree.tree_unflatten(raw, shape)
    if "pin_memory" in raw_kwargs:
        raw_kwargs["pin_memory"] = False
    known = {id(leaf.raw): leaf for leaf in held} | {id(leaf): leaf for leaf in plain}

    def wrapped(leaf):
        if not isinstance(leaf, torch.Tensor) or not here:
            return leaf
        # What an operation in place returns is its argument.
        return known[id(leaf)] if id(leaf) in known else Held(leaf, place.index or 0)

    found = pytree.tree_map(wrapped, operation(*raw_args, **raw_kwargs))
    assert all(leaf.shape == leaf.raw.shape for leaf in held), f"{name} resized a tensor in place"
    return found


_setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
_fallback = torch.library.Library("_", "IMPL")  # kept alive: the registration ends with it
_fallback.fallback(lambda operation, *args, **kwargs: _compute(operation, args, kwargs), "PrivateUse1")

_fallback.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
# By themselves these make an empty tensor and resize it in place, which a tensor of the pretend GPU cannot follow.
_whole = torch.library.Library("aten", "IMPL")
for _name in ("arange", "arange.start", "arange.start_step", "eye", "eye.m"):
    _operation = getattr(getattr(torch.ops.aten, _name.partition(".")[0]), _name.partition(".")[2] or "default")
    _whole.impl(_name, lambda *args, _of=_operation, **kwargs: _compute(_of, args, kwargs), "PrivateUse1")

_make = torch.tensor


def _tensor(data, *, device=None, **options):
    """`torch.tensor` fills a foreign device's memory in a manner that a fallback does not see."""
    return _make(data, **options) if device is None else _make(data, **options).to(device)


torch.tensor = _tensor
torch.utils._device._device_constructors().add(_make)  # so that it still minds `with torch.device("meta")`

torch.inference_mode = torch.no_grad  # its tensors keep no count of changes, which wrappers need

_pick = hooked.plain.pick_device
hooked.plain.pick_device = lambda name: torch.device(NAME, 0) if name == "cuda" else _pick(name)
