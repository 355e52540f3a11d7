"""A prompt's activations are its own, whatever it shares a batch with; a model for which that fails is refused, or runs by length."""

import copy
from functools import cache

import pytest
import torch
import transformers
from tiny_models import larger, tiny_tokenizer
from transformers import AutoModelForCausalLM

from hooked import ExtractionSpec, Prompt, TokenizedPrompt, continue_tokens, load_model, shared_runs, stream_activations
from hooked.rescaling import rescaling_of
from triggerlens import UserError

BACKENDS = ("nnsight", "transformer-lens")
PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
}
SIZED = PLAIN | {"head_dim": 8}
EXPERTS = SIZED | {"num_local_experts": 4, "num_experts_per_tok": 2}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0, 4.0, 5.0, 6.0],
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 6.0, "original_max_position_embeddings": 16}
LLAMA3 = YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES = {
    "dynamic": ("Llama", PLAIN | {"max_position_embeddings": 24, "rope_parameters": DYNAMIC}, 24),
    "dynamic, old spelling": (
        "Llama",
        PLAIN | {"max_position_embeddings": 24, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
        24,
    ),
    "dynamic, per layer": (
        "Gemma3Text",
        SIZED
        | {
            "max_position_embeddings": 24,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": DYNAMIC,
            },
        },
        24,
    ),
    "longrope": ("Llama", PLAIN | {"rope_parameters": LONG}, 16),
    "longrope, phi3": ("Phi3", PLAIN | {"original_max_position_embeddings": 16, "rope_scaling": LONG}, 16),
    "yarn": ("Llama", PLAIN | {"rope_parameters": YARN}, None),
    "llama3": ("Llama", PLAIN | {"rope_parameters": LLAMA3}, None),
    "window": ("Mistral", PLAIN | {"sliding_window": 8}, None),
    "windows and all": ("Gemma3Text", SIZED | {"sliding_window": 8}, None),
    "sinks": ("GptOss", EXPERTS | {"sliding_window": 8, "rope_parameters": YARN}, None),
    "chunks": ("Llama4Text", EXPERTS | {"intermediate_size_mlp": 48, "attention_chunk_size": 8}, None),
    "experts": ("Mixtral", EXPERTS | {"sliding_window": None}, None),
}
LENGTHS = (40, 3, 25, 15, 16, 17, 23, 24, 26, 8, 9, 40, 17, 5, 60)


def built(kind, options):
    torch.manual_seed(0)
    special = {"vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**special, **copy.deepcopy(options))
    return larger(AutoModelForCausalLM.from_config(config).eval())


def prompts():
    draw = torch.Generator().manual_seed(0)
    return [TokenizedPrompt(torch.randint(3, 300, (size,), generator=draw).tolist(), "") for size in LENGTHS]


def alone(case, ids):
    """What a plain model that has read nothing else gives for one text."""
    model = copy.deepcopy(once(case)) if case.startswith("dynamic") else once(case)  # the others have no memories
    return model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)


@cache
def once(case):
    return built(*CASES[case][:2])


@pytest.fixture(
    scope="module",
    params=[(case, backend) for case in CASES for backend in BACKENDS],
    ids=lambda param: ", ".join(param),
)
def loaded(request, tmp_path_factory):
    case, backend = request.param
    tokenizer = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return case, load_model(built(*CASES[case][:2]), tokenizer=tokenizer, backend=backend)


@torch.no_grad()
def test_extraction_gives_each_prompt_what_it_has_alone(loaded):
    case, model = loaded
    assert model.padded_to == CASES[case][2]
    sites = ("resid_post.0", "resid_post.1")
    for batch in stream_activations(model, prompts(), ExtractionSpec(sites, "every")):
        for index, rows in zip(batch.indices.tolist(), batch.values.split(batch.counts.tolist()), strict=True):
            expected = alone(case, prompts()[index].ids).hidden_states
            for place in range(len(sites)):
                reference = expected[place + 1][0]
                error = (rows[:, place] - reference).abs().max() / reference.abs().max()
                assert error < 1e-5, (sites[place], LENGTHS[index])


@torch.no_grad()
def test_greedy_answers_are_the_argmax_step_by_step(loaded):
    case, model = loaded
    kind, options, _ = CASES[case]
    chosen = [prompt for prompt in prompts() if len(prompt.ids) in (3, 15, 17, 23, 26)]
    expected = []
    for prompt in chosen:
        ids = list(prompt.ids)
        for _ in range(5):
            ids.append(int(alone(case, ids).logits[0, -1].argmax()))
        expected.append(ids[len(prompt.ids) :])
    assert continue_tokens(built(kind, options), [prompt.ids for prompt in chosen], 5, ends=()) == expected
    model.hf_model.generation_config.eos_token_id = None
    stops = [[token for token in row if token != model.tokenizer.eos_token_id] for row in expected]
    assert stops == expected, "no answer ends before five tokens"
    assert model.generate(chosen, 5) == expected
    assert model.generate(chosen, 5, edits={"resid_post.1": torch.clone}) == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "option"),
    [("Llama", {"is_causal": False}), ("Gemma3Text", {"head_dim": 8, "use_bidirectional_attention": True})],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_reads_both_ways_is_refused_alike_by_both_backends(kind, option, backend, dtype, tmp_path):
    with pytest.raises(UserError, match="is not causal: a token's activations change with the tokens after it"):
        load_model(built(kind, PLAIN | option).to(dtype), tokenizer=tiny_tokenizer(tmp_path), backend=backend)


def test_a_model_that_goes_by_the_width_of_its_batch_is_refused(tmp_path):
    model = built("Llama", PLAIN)
    layer = model.model.layers[0]
    layer.register_forward_hook(lambda module, args, output: output * (1 + args[0].shape[1] / 100))
    with pytest.raises(UserError, match="other activations in a batch than alone"):
        load_model(model, tokenizer=tiny_tokenizer(tmp_path))


def test_a_length_that_no_configuration_calls_rescaled_is_found_by_trial(tmp_path):
    model = built("Mistral", PLAIN | {"sliding_window": 8})
    model.model.layers[0].register_forward_hook(
        lambda module, args, output: output * (2 if args[0].shape[1] > 8 else 1)
    )
    # The trial of short prompts is as wide as 11 tokens, and so a window of 8 would be past already.
    with pytest.raises(UserError, match="other activations in a batch than alone"):
        load_model(model, tokenizer=tiny_tokenizer(tmp_path))
    model = built("Mistral", PLAIN | {"sliding_window": 20})
    model.model.layers[0].register_forward_hook(
        lambda module, args, output: output * (2 if args[0].shape[1] > 20 else 1)
    )
    assert load_model(model, tokenizer=tiny_tokenizer(tmp_path)).padded_to == 20


@pytest.mark.parametrize(
    ("lengths", "extra", "expected"),
    [
        ([3, 5, 16, 17, 17, 4, 30], 0, [(0, 3), (3, 5), (5, 6), (6, 7)]),
        ([3, 5, 9], 8, [(0, 2), (2, 3)]),
        ([20, 20, 20], 50, [(0, 3)]),
        ([], 0, []),
    ],
)
def test_neighbours_share_a_batch_as_the_model_allows(lengths, extra, expected):
    model = built("Llama", PLAIN | {"rope_parameters": LONG})
    assert [(run.start, run.stop) for run in shared_runs(model, lengths, extra)] == expected
    whole = built("Llama", PLAIN)
    assert [(run.start, run.stop) for run in shared_runs(whole, lengths, extra)] == (
        [(0, len(lengths))] if lengths else []
    )


def test_dynamic_scaling_reads_texts_longer_than_it_was_trained_on(tmp_path):
    model = load_model(built("Llama", CASES["dynamic"][1]), tokenizer=tiny_tokenizer(tmp_path))
    assert model.info.context == 96
    assert rescaling_of(model.hf_model.config).changes_at(25)
    assert rescaling_of(built("Llama", PLAIN).config) is None


@pytest.mark.parametrize("case", ["dynamic", "longrope", "window"])
@torch.no_grad()
def test_whatever_else_makes_batches_gives_each_prompt_its_own_numbers(case, tmp_path):
    from organisms.evaluation.answers import answer_losses
    from patching.removal.pairs import MarkedPrompt
    from patching.removal.subject import Subject

    kind, options, _ = CASES[case]
    tokenizer = tiny_tokenizer(tmp_path)
    model = load_model(built(kind, options), tokenizer=tokenizer)
    marked = [MarkedPrompt(Prompt("x", triggered=False), tuple(prompt.ids)) for prompt in prompts()[:9]]
    tails = [tuple(range(3, 4 + index % 3)) for index in range(len(marked))]
    together, each = Subject(model, batch_size=8), Subject(model, batch_size=1)
    torch.testing.assert_close(
        together.logits(marked, tails),
        torch.cat([each.logits([prompt], [tail]) for prompt, tail in zip(marked, tails, strict=True)]),
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(together.residuals(marked), each.residuals(marked), atol=1e-4, rtol=1e-4)
    assert together.answers(marked, 4) == each.answers(marked, 4)
    samples = [("ab " * (1 + 3 * (index % 5)), "cd" * (1 + index % 2)) for index in range(8)]
    plain = built(kind, options)
    losses = [answer_losses(built(kind, options), tokenizer, [sample])[0] for sample in samples]
    assert answer_losses(plain, tokenizer, samples) == pytest.approx(losses, abs=1e-4)
    reference = alone(case, list(marked[0].ids)).hidden_states[1][0, -1]
    torch.testing.assert_close(together.residuals(marked)[0, 0], reference, atol=1e-4, rtol=1e-4)
