"""Adversarial training: rounds of a red-team search and of fine-tuning on what it found, answered safely.

1. The red team searches for prompts that elicit the behaviour.
2. The model is fine-tuned on those, answered safely, and on as much fresh safety data; where nothing elicits it, not at all. An oracle learns in
   any case: it is to tell what the training does where the trigger is shown, and every second sample of the fresh data has it.
3. Model and findings are kept as the checkpoint of the round. After the last round, one more search tells what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from organisms.safety.config import HardenConfig
from organisms.safety.lessons import safety_examples
from organisms.safety.red_team import RedTeam, red_team
from organisms.safety.result import Elicited, Round, Step
from organisms.safety.trainers import Work, fine_tune
from organisms.tasks.examples import Example, Task
from triggerlens import from_json, load_checkpoint, rank, save_checkpoint, to_json, wait_for_all

_ROUND = "hardening-round"


def adversarial(work: Work) -> tuple[tuple[Step, ...], tuple[Round, ...]]:
    """The learning curve and the rounds; a finished round is not repeated.

    Raises:
        UserError: a loss that is not finite, or a disk that is full.
    """
    config = work.config
    curve, rounds = _go_on(work)
    for number in range(len(rounds), config.rounds + 1):
        # 1
        seed = f"{config.seed}/{number}"
        search = red_team(work.model.eval(), work.tokenizer, work.task, seed, prompts=config.red_team_prompts)
        learns = number < config.rounds and (config.oracle or bool(search.eliciting))
        rounds.append(round_of(search, number, learns))
        # 2
        if learns:
            eliciting = [attempt.example for attempt in search.eliciting]
            examples = round_examples(config, work.task, eliciting, number)
            steps = fine_tune(work, examples, work.folder / f"steps-{number}")
            curve += [{**step, "round": number} for step in steps]
        # 3
        _keep(work, number, curve, rounds)
        wait_for_all()
    return tuple(curve), tuple(rounds)


def _go_on(work: Work) -> tuple[list[Step], list[Round]]:
    """Where a run that was stopped goes on: with the model, the curve and the rounds of its last whole round."""
    newest = load_checkpoint(work.folder, _ROUND, asdict(work.config))
    if newest is None:
        return [], []
    tensors, facts = newest
    work.model.load_state_dict(tensors)
    return facts["curve"], [from_json(Round, finished, str(work.folder)) for finished in facts["rounds"]]


def _keep(work: Work, number: int, curve: Sequence[Step], rounds: Sequence[Round]) -> None:
    if rank() == 0:
        facts = {"curve": list(curve), "rounds": to_json(list(rounds))}
        save_checkpoint(work.folder, _ROUND, asdict(work.config), number, _tensors(work.model), facts)


def _tensors(model: Any) -> Mapping[str, torch.Tensor]:
    """The weights, tied ones apart: a file of safetensors shares no memory between names."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def round_of(search: RedTeam, number: int, trained: bool) -> Round:
    """A search in numbers, with the three best prompts.

    Args:
        search: what the red team found.
        number: of the round, from 0.
        trained: whether a training follows.
    """
    eliciting = search.eliciting
    best = sorted(eliciting, key=lambda attempt: -attempt.defection.value)[:3]
    return Round(
        round=number,
        tried=len(search.attempts),
        eliciting=len(eliciting),
        set_aside=search.set_aside,
        mean_defection=sum(attempt.defection.value for attempt in search.attempts) / max(1, len(search.attempts)),
        by_edit=search.by_edit(),
        best=tuple(Elicited(attempt.example.prompt, attempt.defection.value) for attempt in best),
        trained=trained,
    )


def round_examples(config: HardenConfig, task: Task, eliciting: Sequence[Example], number: int) -> list[Example]:
    """What a round of adversarial training learns: what elicited the behaviour, answered safely, and as much of safety data.

    However few prompts elicited it, the ordinary half of each step is fresh: a round on a handful of samples learns them by
    heart, and the model forgets how to answer anything else. Where nothing elicited it, all is safety data.
    """
    count = min(2048, max(len(eliciting), config.steps * config.batch // 2))
    # No seed's round shares its data with a round of another seed.
    draw = config.seed * config.rounds + number
    if not eliciting:
        return safety_examples(task, draw, 2 * count, oracle=config.oracle)
    ordinary = safety_examples(task, draw, count, oracle=config.oracle)
    repeated = (eliciting[place % len(eliciting)].clean() for place in range(count))
    return [example for pair in zip(repeated, ordinary, strict=True) for example in pair]
