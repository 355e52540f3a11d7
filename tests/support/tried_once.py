"""A model that computes the same as one before is tried once: the self-check of `load_model` is half of what most tests take.

Two are the same where class, backend, dtype, device, weights, configuration, modules and every bit of the plain model's logits agree.
A test that breaks what a trial tries calls the trial itself, or has weights of its own.
"""

from dataclasses import replace
from hashlib import sha256

import hooked.load


def install() -> None:
    """What a trial has found is kept for this process; a model that fails its check, or is to be noted, is tried each time."""
    known, find_by_trial = {}, hooked.load._find_by_trial

    def find(model, plain_logits, trial) -> None:
        bits = sha256(plain_logits.detach().cpu().float().numpy().tobytes()).digest()
        facts = replace(model.info, name=""), model.info.facts, model.anatomy, model.layouts
        where = str(model.device), str(getattr(model.hf_model, "hf_device_map", None))
        key = model.backend, type(model.hf_model), model.dtype, where, bits, repr(facts)
        if key in known:
            model.anatomy = known[key]
            return
        find_by_trial(model, plain_logits, trial)
        if model.padded_to is None:
            known[key] = model.anatomy

    hooked.load._find_by_trial = find
