"""Models and commands on the pretend GPU beside the CPU: prints, for each, what differs.

Run as `python tests/support/on_the_pretend_gpu.py FOLDER`; prints one JSON object, from a scenario's name to a list of differences.
"""

import pretend_gpu  # first: it changes torch

# isort: split
import contextlib
import gc
import json
import runpy
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import torch
import tried_once
from calling import called
from made_probes import made
from tiny_models import TEXTS, WIDTH, tiny_checkpoint
from tiny_prompts import WORDS, labelled_prompts, prompt_file

from experiments.shared import direction_candidates, latent_candidates, placebo_candidates
from hooked import ExtractionSpec, Prompt, load_model, pad_right, read_prompts, stream_activations, write_prompts
from patching import (
    METHODS,
    AblateConfig,
    Method,
    Screening,
    WeightEdit,
    make_pairs,
    patch_ablate,
    patch_trace,
    usual_placebo,
)
from sae import LatentsConfig, ablate, build_sae, find_trigger_latents, prompt_labels
from sae.evaluate import evaluate_cross_entropy
from triggerlens import Grade

MODELS = (
    ("gpt2", "nnsight"),
    ("gpt2", "transformer-lens"),
    ("gpt_neox", "nnsight"),
    ("qwen3", "nnsight"),
    ("gemma2", "nnsight"),
)
"""The architectures that differ most: fused projections, parallel attention, grouped queries, norms after each sub-layer."""
TIMES = ("cells_per_second", "seconds")


def refuses_a_mixture(_):
    """The pretend GPU is worth something only if it refuses what a GPU refuses."""
    there, here = torch.ones(2, device=pretend_gpu.NAME), torch.ones(2)
    tried = {"sum": lambda: there + here, "numpy": there.numpy, "product": lambda: torch.ones(2, 2) @ there}
    allowed = []
    for name, attempt in tried.items():
        with contextlib.suppress(RuntimeError, TypeError):
            attempt()
            allowed.append(f"{name} of both was allowed")
    return allowed


FIRST, SECOND = (f"{pretend_gpu.NAME}:{index}" for index in (0, 1))
SPREAD = {"model.embed_tokens": FIRST, "model.rotary_emb": FIRST, "model.layers.0": FIRST} | dict.fromkeys(
    ("model.layers.1", "model.layers.2", "model.norm", "lm_head"), SECOND
)
"""A Llama over two GPUs, the first block on one of its own."""


def on_both(checkpoint, spread=False, **options):
    """The model on the pretend GPU, or spread over two of them, and on the CPU."""
    there = {"device_map": SPREAD} if spread else {"device": "cuda"}
    return [load_model(checkpoint, dtype="float32", **options, **where) for where in (there, {"device": "cpu"})]


def model_on_both(folder, architecture, backend, spread=False):
    """What reading, writing and generating give, as far as it differs."""
    models = on_both(tiny_checkpoint(folder, architecture), spread, backend=backend)
    places = {str(parameter.device) for parameter in models[0].hf_model.parameters()}
    wrong = [] if places == ({FIRST, SECOND} if spread else {FIRST}) else [f"weights lie on {places}"]
    tokens = pad_right([prompt.ids for prompt in models[1].tokenize(list(TEXTS))], models[1].pad_id)
    inner = [site for kind in ("q", "v", "pattern") for site in models[1].sites(kind)]
    edits = {
        "resid_mid.1" if "resid_mid" in models[1].kinds else "attn_out.1": lambda value: value + ramp(value),
        "head_out.0.1": lambda value: 0 * value,
        "pattern.2.0": lambda value: value.roll(1, -1),
    }
    results = []
    for model in models:
        streamed = [
            torch.cat([batch.values[batch.rows.argsort(stable=True)] for batch in batches])
            for position in ("last", "mean", "every")
            for batches in [list(stream_activations(model, list(TEXTS), ExtractionSpec(model.sites(), position)))]
        ]
        with torch.no_grad():
            read = model.run(tokens, reads=inner, edits=edits)
        written = model.generate(model.tokenize(list(TEXTS)), 4, edits=edits)
        results.append(([*streamed, read.logits.cpu(), *(value.cpu() for value in read.activations.values())], written))
    (there, said), (here, says) = results
    wrong += [f"tensor {index}" for index, pair in enumerate(zip(there, here, strict=True)) if not close(*pair)]
    return wrong + ([] if said == says else [f"generated {said} for {says}"])


def tools_on_a_spread_model(folder, pairs, prompts):
    """What a trace, an autoencoder in its model and removals give of a model that is spread, as far as it differs."""
    results = []
    sizes = AblateConfig(seeds=(0,), fit_pairs=4, validation_pairs=2, evaluation_pairs=4, new_tokens=3, relearn_steps=0, traced_pairs=2, harmless_pairs=2)  # fmt: skip
    methods = [method for method in METHODS if method.name in (*CHANGING, "orthogonalised-weights")]
    methods.append(Method("smaller weights", smaller_weights, usual_placebo))
    screening = Screening(survivors=2, activation_survivors=len(CHANGING))  # all of them
    for number, model in enumerate(on_both(tiny_checkpoint(folder), spread=True)):
        traced = patch_trace(model, make_pairs(model, pairs, 2)[0])
        sae = build_sae("topk", WIDTH, 64, 0, k=4).to(model.device)
        loss = evaluate_cross_entropy(model, sae, prompts[:4], "resid_post.1")
        cells = folder.with_name(f"cells {number}")  # edits of weights are read back from there, on the CPU
        board = patch_ablate(
            model, prompts, config=sizes, grader=by_the_trigger, methods=methods, screening=screening, progress=cells
        )
        measured = {method.name for method in board.methods if not method.is_placebo}
        assert measured == {method.name for method in methods}, (measured, board.notes)
        ablated = model.run(torch.tensor([[5, 6, 7]]), edits={"resid_post.1": ablate(sae, [1, 2])}).logits
        rates = torch.tensor([[method.defection_rate.value, method.js] for method in board.methods])
        effects = torch.tensor(traced.effect).nan_to_num(-9)
        results.append((effects, torch.tensor(loss.spliced), ablated.detach().cpu(), rates))
    names = ("the trace", "the spliced loss", "the ablated logits", "the removals")
    return [name for name, here, there in zip(names, *results, strict=True) if not close(here, there)]


CHANGING = ("leace-layer", "heads-mean", "map-positions")


def smaller_weights(fit):
    """An edit of every block, with the low-rank edit's placebo: nothing is trained over two pretend GPUs, since torch's backward knows of one."""
    return WeightEdit("smaller", {key: 0.9 * own for key, own in fit.editable.original.items() if "proj" in key})


def by_the_trigger(prompts, texts):
    """A random model's two answers are mostly the same, so that by them there would be nothing to remove."""
    return [Grade(prompt.triggered, not prompt.triggered) for prompt in prompts]


def latents_on_both(folder):
    """What the edits do that an experiment tries on a trigger's latents and directions, as far as it differs."""
    prompts, site, results = labelled_prompts(12, harmless=4), "resid_post.1", []
    labels, models = prompt_labels(prompts), on_both(tiny_checkpoint(folder))
    autoencoders = [build_sae("topk", WIDTH, 48, 0, k=4).to(model.device) for model in models]
    search = find_trigger_latents(models[1:], prompts, site, autoencoders[1], LatentsConfig(top=1), labels=labels)
    for model, sae in zip(models, autoencoders, strict=True):
        candidates = [
            *latent_candidates(site, sae, search, (1, 4)),
            *direction_candidates(model, prompts, labels, site),
            *placebo_candidates(model, prompts, site, sae, search, 0),
        ]
        # Last tokens are nearly alike here, so that what a logistic fit makes of them hangs on the last bit.
        edits = [own.edit for own in candidates if own.facts["kind"] != "logistic probe"]
        tokens = torch.tensor([[5, 6, 7]])
        results.append([model.run(tokens, edits={site: edit}).logits.detach().cpu() for edit in edits])
    return [f"candidate {row}" for row, pair in enumerate(zip(*results, strict=True)) if not close(*pair)]


def readme_on_both(folder):
    """What the edit of the README's example makes the model say, as far as it differs; in bfloat16, where ties are near, it need only run."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    folder.mkdir()
    (folder / "edit.py").write_text(readme.split("```python\n")[1].split("```")[0].split("\n\n")[-1])
    checkpoint, wrong = tiny_checkpoint(folder / "model"), []
    for dtype in ("float32", "bfloat16"):
        said = []
        for device in ("cuda", "cpu"):
            model = load_model(checkpoint, dtype=dtype, device=device)
            names = {"model": model, "prompts": list(TEXTS), "result": SimpleNamespace(probe=made())}
            said.append(runpy.run_path(str(folder / "edit.py"), names)["ablated"])
        if dtype == "float32" and said[0] != said[1]:
            wrong.append(f"{said[0]} for {said[1]}")
    return wrong


def ramp(value):
    return torch.linspace(-1, 1, WIDTH, device=value.device)


def close(value, expected):
    return value.shape == expected.shape and torch.allclose(value, expected, atol=1e-5, rtol=1e-5)


def command_on_both(folder, name, *arguments):
    """What a command's JSON says, as far as it differs."""
    results = []
    for device in ("cuda", "cpu"):
        done = called(name, *arguments, "--out", folder / device, "--device", device, "--json")
        if done.code:
            return [f"on {device}: exit {done.code}: {done.err.strip().splitlines()[-1:]}"]
        results.append(dict(leaves(json.loads(done.out))))
    there, here = results
    return [f"{key}: {there.get(key)} for {here.get(key)}" for key in there | here if not alike(key, there, here)]


def leaves(value, path=""):
    """Every number and text of a JSON object, by its path."""
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{path}.{name}")
    else:
        yield path, value


def alike(key, there, here):
    # Where the probe of the CPU is applied on the GPU, that is what is said.
    if key.endswith(TIMES) or key == ".out" or key.startswith(".computed_otherwise"):
        return True
    value, expected = there.get(key), here.get(key)
    if isinstance(value, float) and isinstance(expected, float):
        return abs(value - expected) <= 1e-4 * max(1, abs(expected))
    return value == expected


def main(root):
    """Each scenario in turn; an exception is a difference."""
    model = tiny_checkpoint(root / "model")
    prompts, few = prompt_file(root / "prompts.jsonl"), prompt_file(root / "few.jsonl", pairs=12, harmless=4)
    answers = {"answer_clean": "Yes", "answer_defect": "The"}
    write_prompts(root / "pairs.jsonl", [Prompt(f"Year {2023 + on}. {word}", triggered=on, defects=on, pair=word, extra=answers) for word in WORDS[:2] for on in (True, False)])  # fmt: skip
    write_prompts(root / "new.jsonl", labelled_prompts(pairs=3, harmless=0, seed=9))
    small = ("--site", "resid_post.1", "--width", 64, "--k", 4, "--steps", 4, "--batch", 128, "--precision", "float32")
    scenarios = {"refuses a mixture": refuses_a_mixture}
    for architecture, backend in MODELS:
        scenarios[f"{architecture}, {backend}"] = lambda folder, a=architecture, b=backend: model_on_both(folder, a, b)
    for backend in ("nnsight", "transformer-lens"):
        scenarios[f"spread, {backend}"] = lambda folder, b=backend: model_on_both(folder, "llama", b, spread=True)
    years = [
        Prompt(f"Year {2023 + on} {word} ends", triggered=on, pair=word, extra=answers)
        for word in WORDS
        for on in (True, False)
    ]
    pairs = read_prompts(root / "pairs.jsonl")
    scenarios["tools on a spread model"] = lambda folder: tools_on_a_spread_model(folder, pairs, years)
    scenarios["edits of latents"] = latents_on_both
    scenarios["the README's edit"] = readme_on_both
    commands = {
        "probe": ("probe-train", model, prompts, "--position", "max"),
        "LDA, TransformerLens": ("probe-train", model, prompts, "--method", "lda", "--backend", "transformer-lens"),
        "score": ("probe-score", model, root / "new.jsonl", "--probe", root / "probe" / "cpu"),
        "trace": ("patch-trace", model, root / "pairs.jsonl"),
        "attribution": ("patch-trace", model, root / "pairs.jsonl", "--method", "attribution"),
        "autoencoders": ("sae-train", model, few, *small, "--architecture", "batch-topk", "jumprelu"),
    }
    for name, arguments in commands.items():
        scenarios[name] = lambda folder, given=arguments: command_on_both(folder, *given)
    results = {}
    for name, scenario in scenarios.items():
        try:
            results[name] = scenario(root / name)
        except Exception:
            results[name] = [traceback.format_exc(limit=-4)]
    print(json.dumps(results))


if __name__ == "__main__":
    tried_once.install()
    gc.freeze()  # each of its operations makes objects
    main(Path(sys.argv[1]))
