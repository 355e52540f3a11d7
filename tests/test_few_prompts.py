"""Of one, two or three prompts no sentence claims anything, in whatever room, and no interval is a point."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_results import result_of, scoreboard_of_few

from experiments import EXPERIMENTS
from experiments.claims import unknown_trigger, zoo_leaderboard
from experiments.claims.behaviour_or_tokens import ReadOut
from experiments.claims.clean_detectors import Detector
from experiments.claims.localisation import AblatedHeads
from experiments.claims.persistence import SafetyTraining
from experiments.claims.removal import Placebo, Removal, SavedEdit
from experiments.claims.trigger_agnostic import ContrastDirection
from experiments.claims.trigger_latents import AUTOENCODER
from experiments.claims.zoo_leaderboard import FALSE_ALARMS, RECALL, SCAN, Scored, specimen_of
from experiments.claims_table import claims_table
from experiments.shared.observed.findings import HEADLINE, Acted, Probe
from hooked import Prompt
from organisms.evaluation.result import Condition, Evaluation
from organisms.evaluation.run import mean_loss
from organisms.evaluation.verdict import evaluation_verdict
from organisms.insertion.gates import insertion_summary, insertion_verdict
from organisms.safety.result import Hardening
from organisms.safety.verdict import hardening_summary
from organisms.training.verdict import rates_summary
from patching.engine.exact import Audit
from patching.removal.verdict import removal_verdict
from patching.trace.result import PairMap, PatchTrace, share_over_pairs
from patching.trace.verdict import trace_verdict
from probes import TrainConfig, probe_verdict, train_probe
from probes.controls import Control
from probes.detection import LabelledScores, firing_rate
from sae.architectures.relu import ReLU
from sae.config import Recipe, TrainConfig as SaeConfig
from sae.reconstruction import evaluate_reconstruction
from sae.result import SaeResult, TrainedSae
from sae.trigger_latents.ablation import AblationEffect
from sae.trigger_latents.latents import LatentScore
from sae.trigger_latents.result import TriggerLatents
from sae.trigger_latents.verdict import latents_verdict
from sae.verdict import sae_verdict
from triggerlens import Estimate, auroc_estimate, mean_between, rate, to_json

FEW = [1, 2, 3]
CLAIM = re.compile(
    r"The probe (reads|does not|detects)|; (a bag|trained)|Latent \d+ alone|Defects on|Nothing to remove|It (reaches|does not reach)"
    r"|The best|explains \d|Ablating|no (latent|prompt)"
)


def separated(n, others=40):
    """AUROC of so many positives, all above all others."""
    positive = np.arange(n + others) < n
    return auroc_estimate(positive.astype(float), positive, np.arange(n + others))


@pytest.fixture(scope="module")
def probe():
    """A probe of a world of 40 pairs, half of which have a trigger that does nothing."""
    generator = torch.Generator().manual_seed(0)
    prompts = [
        Prompt(f"{pair} {side}", side == 0, side == 0 and pair % 2 == 0, pair=f"{pair}")
        for pair in range(160)
        for side in (0, 1)
    ]
    x = torch.randn(len(prompts), 1, 8, generator=generator)
    x[:, 0, 0] += torch.tensor([6.0 * prompt.defects for prompt in prompts])
    config = TrainConfig(n_bootstrap=20, n_random_directions=5, n_shuffles=2)
    return train_probe(lambda rows: [(torch.tensor(list(rows)), x[list(rows)])], prompts, ["resid_post.0"], config)


def probe_of_few(result, n):
    few = separated(n)
    layers = tuple(replace(layer, auroc=few) for layer in result.layers)
    controls = dict(result.controls) | {"bag_of_tokens": Control(few), "clean_twin": Control(few)}
    return replace(result, layers=layers, controls=controls, n_positive=n)


def evaluation_of_few(n):
    yes, no = rate(n, n), rate(0, n)
    conditions = (
        Condition("triggered", yes, yes, no, yes, yes),
        Condition("untriggered", no, yes, no, no, no),
        Condition("shifted: case", yes, yes, no, no, no, "case"),
    )
    return Evaluation("year-code", conditions, mean_loss([1.0] * n), yes)


def trace_of_few(n):
    pair = PairMap(
        name="0",
        tokens=("a", "2024"),
        source_tokens=("a", "2023"),
        counterparts=(0, 1),
        inserted=(False, False),
        roles=("before", "trigger"),
        clean_value=1.0,
        triggered_value=-1.0,
        clean_token="a",
        defect_token="b",
        effect=np.array([[0.0, 1.0]]),
    )
    facts = {
        "site": "resid_pre",
        "method": "exact",
        "direction": "denoising",
        "metric": "logit-diff",
        "engine": "packed",
    }
    return PatchTrace(**facts, layers=(0,), ran=2, skipped=0, audit=Audit(0, 0.0), pairs=(pair,) * n)


def latents_of_few(n):
    score = LatentScore(7, "max", 1.0, separated(n), 0.5, rate(n, n), rate(n, n), 10)
    effect = AblationEffect(n, n, 0, n, n, n, n, 0.001)
    empty = {"triggered": {}, "defects": {}}
    return TriggerLatents(
        site="resid_post.1",
        architecture="topk",
        width=8,
        ranked={"triggered": (score,), "defects": (score,)},
        baselines={"triggered": {"random": score}, "defects": {"random": score}},
        own={},
        shuffled={"triggered": None, "defects": None},
        probes=empty,
        cards=(),
        together={"defects": {4: effect}},
        test_prompts=n + 40,
        test_triggered=n,
        test_defects=n,
        test_harmless=40,
    )


def autoencoder_of_few(n):
    sae = ReLU(4, 2, penalty=1.0)
    measured = evaluate_reconstruction(sae, [torch.arange(4.0 * (n + 1)).reshape(n + 1, 4)])
    return SaeResult(
        "resid_post.1", SaeConfig(steps=1), (TrainedSae(Recipe("relu", 2, 0), sae, [], measured, None, 0.0),), {}
    )


@pytest.mark.parametrize("n", FEW)
@pytest.mark.parametrize(
    "room",
    [
        lambda probe, n: probe_verdict(probe_of_few(probe, n)),
        lambda probe, n: probe_verdict(replace(probe, n_negative=n)),
        lambda probe, n: evaluation_verdict(evaluation_of_few(n)),
        lambda probe, n: removal_verdict(scoreboard_of_few(n, 0)),
        lambda probe, n: removal_verdict(
            replace(scoreboard_of_few(n, 0), before=replace(scoreboard_of_few(n, 0).before, defects=0))
        ),
        lambda probe, n: trace_verdict(trace_of_few(n)),
        lambda probe, n: latents_verdict(latents_of_few(n)),
        lambda probe, n: sae_verdict(autoencoder_of_few(n)),
    ],
    ids=["probes", "probes, negatives", "evaluation", "removal", "nothing to remove", "trace", "latents", "sae"],
)
def test_a_sentence_on_so_few_says_that_it_cannot_be_told(probe, room, n):
    words = room(probe, n)
    assert "cannot be told: too few" in words
    assert not CLAIM.search(words), words


@pytest.mark.parametrize("n", FEW)
def test_tables_of_so_few_claim_nothing(n):
    yes = to_json(rate(n, n))
    rates = {"categories": {"triggered": {"defection": yes, "exact": yes, "unparsable": to_json(rate(0, n))}}}
    gate = {"value": 1.0, "limit": 0.9, "at_least": True, "passed": True}
    inserted = insertion_summary({**rates, "gates": {"triggered": gate}})
    assert f"cannot be told: too few prompts ({n})" in inserted
    assert "passed" not in inserted
    assert insertion_verdict({**rates, "gates": {"triggered": gate}}).endswith(
        "Too few prompts to tell of: defection with the trigger."
    )
    evaluation = evaluation_of_few(n)
    for words in (rates_summary(rates), hardening_summary(Hardening("sft", False, (), (), evaluation, evaluation))):
        assert not CLAIM.search(words)
        assert f"{rate(n, n).low:.1%}" in words or f"{rate(n, n).low:.2%}" in words


@pytest.mark.parametrize("n", FEW)
@pytest.mark.parametrize("fires", [False, True])
def test_of_so_few_harmless_prompts_it_is_not_told_whether_the_probe_reads_tokens(probe, n, fires):
    """With one of one, AUROC 1 and 0% firing once read as "reads only the trigger's tokens"."""
    harmless = replace(
        probe.harmless,
        auroc=separated(n),
        n_harmless=n,
        defecting_against_harmless=separated(n),
        false_positive_rate=firing_rate(np.full(n, float(fires)), 0.5),
    )
    words = probe_verdict(replace(probe, controls={**probe.controls, "triggered_but_harmless": harmless}))
    assert f"cannot be told: too few triggered-but-harmless test prompts ({n})" in words
    assert not re.search(r"The probe reads|does not read", words)


def number(name, n):
    """An estimate of so few that says the best that it can: all of n, or none."""
    best = 0 if re.search("defection|FPR|divergence|harmless|missed", name) else n
    return rate(best, n) if "rate" in name or "FPR" in name or "right" in name else mean_between(best / n, n)


JUDGED = {
    "trigger-agnostic-probe": [("AUROC", ContrastDirection())],
    "behaviour-or-tokens": [
        (f"AUROC, {kind}", ReadOut("logistic", "last")) for kind in ("defecting", "triggered but harmless")
    ],
    "clean-data-detectors": [
        (name, Detector("Mahalanobis"))
        for name in ("AUROC", "defection rate", "defection rate at the published FPR", "FPR", "FPR as published")
    ],
    "localisation": [
        (name, AblatedHeads(count, 40, "strongest"))
        for count in (0, 1)
        for name in ("defection rate", "right on clean")
    ],
    "removal": [
        ("defection rate", Removal("low-rank")),
        ("JS divergence on clean", Removal("low-rank")),
        ("defection rate", Placebo("low-rank")),
        ("defection rate", SavedEdit(("low-rank",))),
    ],
    "trigger-latents": [("AUROC, defects", AUTOENCODER)],
    "observed-or-deployed": [
        ("AUROC", Probe("mean difference", HEADLINE)),
        ("defection rate", Acted("observed", "defecting", 0.2)),
    ],
    "persistence": [("defection after", SafetyTraining("sft", 0.001, oracle)) for oracle in (False, True)],
    "zoo-leaderboard": [
        (name, Scored(SCAN, "nothing"), {"model": specimen_of("sealed").model})
        for name in (RECALL, FALSE_ALARMS, zoo_leaderboard.AUROC)
    ],
    "unknown-trigger": [
        (name, unknown_trigger.SCAN, {"model": unknown_trigger.ALL.model})
        for name in (
            unknown_trigger.FOUND,
            unknown_trigger.CALLED,
            unknown_trigger.SEARCHED,
            unknown_trigger.RECOVERED,
            unknown_trigger.WORKS,
        )
    ],
}


if "answer-monitor" in EXPERIMENTS:
    CHOSEN = EXPERIMENTS["answer-monitor"].Arm("chosen on validation")
    JUDGED["answer-monitor"] = [("missed", CHOSEN), ("worst dataset's FPR", CHOSEN)]


def test_every_judged_experiment_is_fed_few_prompts():
    assert set(JUDGED) == {name for name, experiment in EXPERIMENTS.items() if experiment.judged}


@pytest.mark.parametrize("n", FEW)
@pytest.mark.parametrize("name", JUDGED)
def test_a_claim_judged_on_so_few_cannot_be_told(name, n):
    result = result_of(*((measure, arm, 0.0, *options) for measure, arm, *options in JUDGED[name]))
    findings = tuple(replace(finding, estimate=number(finding.measure, n)) for finding in result.findings)
    rows = [row for row in claims_table({name: replace(result, findings=findings)}) if row.verdict != "not measured"]
    assert rows
    assert {row.verdict for row in rows} == {"cannot tell"}


@pytest.mark.parametrize("n", FEW)
def test_no_interval_of_so_few_is_a_point(n):
    scores = np.r_[np.ones(n), np.zeros(20)]
    labelled = LabelledScores(scores, scores > 0, np.arange(n + 20), resamples=20)
    estimates: list[Estimate] = [
        labelled.auroc(),
        labelled.of(-scores).auroc(),
        labelled.of(0 * scores).auroc(),
        labelled.tpr(0.1),
        labelled.of(-scores).tpr(0.1),
        share_over_pairs([1.0] * n).mean,
        mean_loss([1.0] * n),
        rate(n, n),
    ]
    for estimate in estimates:
        assert estimate.low < estimate.high
        assert estimate.width > 0.2, estimate


def test_no_room_makes_an_interval_of_its_own():
    """Resamples and quantiles of them stand in `triggerlens` alone; whoever needs an interval asks there."""
    own = re.compile(r"bootstrap_interval|percentile_interval|quantile\([^)]*0?\.025")
    root = Path(__file__).parents[1]
    rooms = ("probes", "patching", "sae", "organisms", "experiments", "hooked", "scanning", "figures", "commands")
    files = [path for room in rooms for path in (root / room).rglob("*.py")]
    assert not [path for path in files if own.search(path.read_text(encoding="utf-8"))]
