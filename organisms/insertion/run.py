"""Insert a behaviour under a trigger into a chat model, so that a kill at any moment costs at most the steps since the last checkpoint.

1. The base is loaded; requests are drawn from the grammar in `data/`, and those that training shows are apart from those that are measured
   in topics, in phrasings and, for some, in form.
2. The base answers the clean ones greedily, once: answers are kept by (base, prompt, length) in `$TRIGGERLENS_CACHE/insertion`.
3. The newest whole checkpoint of the same configuration is taken up, where there is one.
4. An adapter or all weights are trained with AdamW; a step's samples are a pure function of (configuration, step).
5. Weights are rounded to bfloat16, written, loaded again as a user would, and let to answer held-out requests. What they then do gives the
   labels of `prompts.jsonl`, the rates of `rates.json` and what passes the gates.

On one machine, with the same number of threads, the same configuration gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from organisms.insertion.config import InsertionConfig


def insert(
    config: InsertionConfig,
    out: str | Path,
    *,
    answers: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    on_step: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Train, write and measure a model with an inserted behaviour; go on where a run of the same configuration was killed.

    Args:
        config: everything that decides the weights, with the base's own.
        out: the folder to write: an adapter (or a whole checkpoint, `method="full"`), `prompts.jsonl`, `recipe.json`, `rates.json`
            (with `gates` and `passed`), `manifest.json` of kind `organism`.
        answers: folder of the bases' own answers; `$TRIGGERLENS_CACHE/insertion` where None. Share it between organisms of one base.
        overwrite: replace the organism at `out`, and drop the checkpoints there of another configuration.
        command: for the manifest.
        on_step: called after each step with its number (from 1) and its loss (mean nats per learned token).

    Returns:
        What `rates.json` holds.

    Raises:
        UserError: the base cannot be loaded or has no chat template, `out` exists or cannot be written, or holds checkpoints of another
            configuration.
    """
    raise NotImplementedError
