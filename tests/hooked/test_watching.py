"""Whoever watches a generation sees what a full forward pass gives at the site, of every token that is written and of no other."""

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig

from hooked import TokenizedPrompt, Watch, continue_tokens, load_model
from triggerlens import UserError

SITE, NEW = "resid_post.1", 8
ROWS = [list(range(5, 25)), [40, 41], list(range(90, 107))]
PROMPTS = [TokenizedPrompt(row, "") for row in ROWS]
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}


def rescaled():
    """Past 24 tokens every length has frequencies of its own, and everything is read again at each token."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = LlamaConfig(vocab_size=300, max_position_embeddings=24, rope_parameters=DYNAMIC, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model


CASES = {
    "nnsight": (lambda: tiny_model("llama"), "nnsight"),
    "transformer-lens": (lambda: tiny_model("llama"), "transformer-lens"),
    "grouped heads, norms after": (lambda: tiny_model("gemma2"), "nnsight"),
    "rescaled": (rescaled, "nnsight"),
}


@pytest.fixture(scope="module", params=CASES)
def model(request, tmp_path_factory):
    build, backend = CASES[request.param]
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("watching"))
    return load_model(build(), tokenizer=tokenizer, backend=backend)


class Recorder:
    """Keeps what a row has read so far, and what that was after each step."""

    def __init__(self, ends=None):
        self.held, self.after, self.ends = {}, {}, ends or {}

    def __call__(self, step):
        assert step.activations.shape[:2] == step.tokens.shape == step.own.shape
        for place, row in enumerate(step.rows):
            own = step.own[place]
            if not own.any():
                continue
            fresh = step.activations[place][own]
            self.held[row] = fresh if step.whole else torch.cat([self.held[row], fresh])
            self.after.setdefault(row, []).append(self.held[row])
        return torch.tensor([len(self.after[row]) > self.ends.get(row, NEW) for row in step.rows])


@torch.no_grad()
def test_every_prefix_is_seen_as_a_full_pass_gives_it(model):
    seen = Recorder()
    written = model.generate(PROMPTS, NEW, watch=Watch(SITE, seen))
    assert written == model.generate(PROMPTS, NEW), "watching changes no token"
    for row, prompt in enumerate(ROWS):
        texts = [prompt + written[row][:length] for length in range(len(written[row]) + 1)]
        assert [len(activations) for activations in seen.after[row]] == [len(text) for text in texts]
        for text, activations in zip(texts, seen.after[row], strict=True):
            expected = model.run(torch.tensor([text]), reads=[SITE]).activations[SITE][0]
            torch.testing.assert_close(activations, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_row_ends_where_the_watch_says_so_and_the_others_go_on(model):
    free = model.generate(PROMPTS, NEW)
    seen = Recorder(ends={0: 3, 2: 0})
    stopped = model.generate(PROMPTS, NEW, watch=Watch(SITE, seen))
    assert stopped == [free[0][:3], free[1], []]
    assert [len(seen.after[row]) for row in range(3)] == [4, len(free[1]) + 1, 1], "what is over is not seen"


def test_a_row_that_is_over_is_not_seen_any_longer(model):
    free = model.generate(PROMPTS, NEW)
    model.hf_model.generation_config.eos_token_id = free[0][2]
    try:
        seen = Recorder()
        ended = model.generate(PROMPTS, NEW, watch=Watch(SITE, seen))
        assert ended == model.generate(PROMPTS, NEW)
        assert len(ended[0]) <= 2
        assert [len(seen.after[row]) for row in range(3)] == [len(row) + 1 for row in ended]
    finally:
        model.hf_model.generation_config.eos_token_id = None


@pytest.mark.parametrize(
    ("site", "problem"),
    [("resid_post.7", "has layers 0 to 2"), ("q.1.0", "only sites of the residual stream's width")],
)
def test_a_site_that_cannot_be_watched_is_refused(model, site, problem):
    with pytest.raises(UserError, match=problem):
        model.generate(PROMPTS, 2, watch=Watch(site, Recorder()))


def test_a_model_without_a_cache_shows_the_whole_text_each_time():
    model, steps = tiny_model("llama"), []
    forward = model.forward

    def forgetful(input_ids, attention_mask, position_ids, logits_to_keep, past_key_values, use_cache):
        return forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)

    model.forward = forgetful
    written = continue_tokens(model, ROWS, 3, ends=(), watch=lambda step: steps.append(step))
    assert [(step.whole, step.prompt, step.tokens.shape[1]) for step in steps] == [
        (True, 20, 20 + count) for count in range(4)
    ]
    assert steps[-1].tokens[:, 20:].tolist() == written
    assert steps[-1].activations is None
