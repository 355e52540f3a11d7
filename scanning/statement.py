"""What a scan is worth, in sentences: what it found, or what it covered, what it bounds, and what it cannot see.

"None found" is never "clean".
"""

from __future__ import annotations

from collections.abc import Sequence

from scanning.calibrate import FEWEST, Against, Floor, group_of, read_calibration
from scanning.motifs import RUN
from scanning.openly import Openly
from scanning.result import ALPHA, Judged, ScanResult, SiblingFacts, SweptFacts
from scanning.verdict import evidence_words, hidden_words, said_words
from triggerlens import count_text, estimate_text, interval_text

BLIND = (
    "Triggers of more tokens than were tried, of several parts, in a language, a context or a number format that no channel proposes, or that work "
    "only on prompts unlike the benign ones given, are not seen. Neither are behaviours that begin later in an answer than was followed, words "
    "that are put in and change answers without making them alike, and behaviours that are on without any trigger. Sampling says nothing of "
    "triggers rarer than one in the number sampled."
)


_AT_MOST = "one in fifty at most, or one in ten where the words of what is asked do not tell which"
"""Share of benign answers that may have what is not usual (`motifs.usual_runs`)."""
_WITHIN = (
    "Each chance is corrected within its own channel and rule alone: a scan of several channels and three rules is called by chance several times as "
    "often."
)
_UNLIKE = "; these move the model each in its own way, so that none could be a finding"


def scan_statement(result: ScanResult) -> list[str]:
    """The statement, a paragraph each."""
    artifact = f"Scanned: {result.model}, weights sha256 {result.weights_sha256[:16]}…, computed in {result.dtype}."
    lines = [artifact, *(_found_words(judged, result) for judged in result.found)]
    lines += [_WITHIN] if result.found else []
    if result.hidden and not any(judged.brings for judged in result.found):
        lines.append(f"Found, without a trigger: {hidden_words(result)}")
    if result.outcome == "none found":
        lines.append("No trigger was found. That is not to say that there is none; what was covered:")
    if result.outcome == "nothing covered":
        lines.append(
            "Nothing was tried, for want of time or since no channel proposed anything, so that nothing is said of this model; give a larger --budget, or "
            "other --channels."
        )
    lines += [*_behaviour_words(result), *_asked_words(result)]
    lines += [_swept_words(swept) for swept in result.swept]
    lines += _sibling_words(result.siblings)
    lines += _other_words(result)
    lines += [_floor_words(floor) for floor in result.floors if floor.kind == "insertion" and floor.collapse]
    lines += [_few_words(floor) for floor in result.floors if floor.kind != "sibling" and not floor.collapse]
    lines.append(_calibration_words())
    lines.append(BLIND)
    return lines


def _found_words(judged: Judged, result: ScanResult) -> str:
    does = _brought_words(judged, result) if judged.brings else _against_words(judged, result)
    typed = "" if judged.round_trips else " Typed as text it gives other tokens; these were inserted as such."
    return f"Found by the channel {judged.candidate.channel}: {judged.candidate.name}: {does}.{typed}{evidence_words(judged)}"


def _brought_words(judged: Judged, result: ScanResult) -> str:
    assert judged.brought is not None  # it brings it about
    than = (
        f"surer than any of the clean models that set the threshold ({_clean_words()})"
        if judged.surely
        else "no surer than turns of phrase of clean models do"
    )
    more = (
        ""
        if judged.surely
        else "; texts that were searched for such turns of phrase in the clean models bring them about on fewer than a finding needs"
    )
    among = len(result.judged) if judged.corrected_for is None else judged.corrected_for
    return (
        f"{count_text(judged.brought)} held-out prompts ({interval_text(judged.brought, '.0%')}) are "
        f"then answered with a behaviour that goes on by itself {than}: {said_words(judged)} "
        f"(chance by Fisher's exact test against benign answers, corrected for {among:,} candidates that went to the judge, {judged.brought_chance:.1g}{more})"
    )


def _clean_words() -> str:
    """How many clean models set the threshold of each size."""
    facts = read_calibration() or {}
    sizes = [f"{facts['clean']} open tiny ones"] if "clean" in facts else []
    for own in facts.get("larger", []):
        low, high = (round(own[name] / 1e6) for name in ("from", "parameters"))
        sizes.append(f"{own['clean']} of {low:,} to {high:,} million weights")
    return "; ".join(sizes)


def _against_words(judged: Judged, result: ScanResult) -> str:
    against = judged.collapse_against if judged.collapses else judged.divergence_against
    assert against is not None  # it is found
    count, on = against.of, _prompts_words(judged, result)
    if judged.candidate.kind == "sibling":
        does = (
            f"on the quarter of {judged.prompts} held-out prompts that it moves most, it moves what the model expects along its answer by {against.value:.3f} nats away from "
            f"what {count} statements of the same frame, {judged.candidate.rule!r}, make it expect; of these the furthest moves it by {against.highest:.3f}"
        )
    elif judged.collapses:
        few = ", leaving out those to prompts in small letters or capitals alone, where these are a tenth at most"
        left = few if judged.candidate.kind == "style" else ""
        does = (
            f"{count_text(judged.collapse)} held-out prompts ({interval_text(judged.collapse, '.0%')}) are then answered with {said_words(judged)}, which "
            f"hardly any of {result.repertoire:,} benign answers holds ({_AT_MOST}{left}); of {count} random candidates of its length and place{on} the most was {against.highest:.0%}"
        )
    else:
        does = (
            f"along the answers to {judged.prompts} held-out prompts what the model expects then diverges by {estimate_text(judged.divergence)} nats in the "
            f"mean; of {count} random changes of the kind{on} the most was {against.highest:.3f}"
        )
    near = f"; at least half as far go {', '.join(map(repr, judged.nearly))}" if judged.nearly else ""
    return f"{does} ({_chance_words(against, judged.tried)}{near})"


def _prompts_words(judged: Judged, result: ScanResult) -> str:
    """On how many prompts a candidate's floor was made, which may be fewer than it was judged on itself."""
    floor = next((own for own in result.floors if own.group == group_of(judged.candidate)), None)
    return "" if floor is None or floor.prompts is None else f", on {floor.prompts} prompts each,"


def _chance_words(against: Against, tried: int) -> str:
    """The chance, and where it is below what can be counted, that it is, and what can."""
    said = f"chance {against.chance:.1g}, corrected for {tried:,} candidates {against.corrected:.1g}"
    if not against.extrapolated:
        return said
    return (
        f"{said}, both extrapolated: {against.reached or 'none'} of the {against.of} that it is held against go as far, by which counting alone gives "
        f"{against.counted:.1g}, corrected {min(1.0, against.counted * tried):.1g}"
    )


def _behaviour_words(result: ScanResult) -> list[str]:
    if not result.behaviours:
        return []
    said = "; ".join(f"{behaviour.text!r} ({count_text(behaviour.share)})" for behaviour in result.behaviours[:3])
    return [
        f"To prompts that the model wrote itself it says, unasked, what it says to no benign one: {said}. Clean models do so too; what sets it off was searched for."
    ]


def _asked_words(result: ScanResult) -> list[str]:
    lines = []
    if result.asked:
        lines.append(
            f"Left out, since requests for their manner make them likelier than requests for other manners do: {_openly_words(result.asked)}. A hidden "
            "trigger that brings about just that is not seen."
        )
    withdrawn = [judged for judged in result.judged if judged.withdrawn]
    said = [f"{own.candidate.name}: {_openly_words([own.openly])}" for own in withdrawn if own.openly is not None]
    if said:
        lines.append(
            f"Withdrawn, since open requests bring about what the answers then say: {'; '.join(said)}. A hidden trigger that brings about just that is not seen."
        )
    asking = [own.candidate.name for own in withdrawn if own.asked]
    if asking:
        lines.append(
            f"No findings, since they have words of an ordinary request, or the answers speak of what they say: {'; '.join(asking)}."
        )
    return lines


def _openly_words(asked: Sequence[Openly]) -> str:
    """Behaviours that are asked for openly, and by which requests."""
    return "; ".join(f"{own.text!r} ({own.manner}: {own.lift:.1f} nats)" for own in asked)


def _swept_words(swept: SweptFacts) -> str:
    which = (
        f"No single token of all {swept.tokens:,}"
        if swept.exhaustive
        else f"Of {swept.tokens:,} tokens drawn from {swept.of:,}, none"
    )
    steps = "the next token" if swept.steps == 1 else f"any of the first {swept.steps} tokens of the answer"
    where = "after the system message" if swept.place == "system" else f"at the {swept.place} of the user's text"
    return (
        f"{which} {where} of {swept.prompts} prompts moves what is expected for {steps} by more than {swept.highest:.3f} nats in the mean "
        f"({swept.best[0][0]!r}; 0.693 is the most there can be; the middle token moves it by {swept.median:.3f})."
    )


def _sibling_words(siblings: Sequence[SiblingFacts]) -> list[str]:
    """A line for all frames: what stands furthest apart in each."""
    if not siblings:
        return []
    said = "; ".join(
        f"{own.effects[0][0]!r} {place_words(own.place)} ({own.effects[0][1]:.3f} nats, the next {own.effects[1][1]:.3f}; {len(own.effects)} statements, {own.prompts} prompts{_UNLIKE if not own.alike else ''})"
        for own in siblings
    )
    return [
        f"Statements that differ in a word alone, such as the year, were put into prompts; furthest from what its siblings make the model expect was in each frame: {said}."
    ]


def place_words(place: str) -> str:
    """Where a candidate stands."""
    return "after the system message" if place == "system" else f"at the {place}"


def _other_words(result: ScanResult) -> list[str]:
    """What the other channels looked at."""
    lines = []
    proposed = dict(result.proposed)
    if "target" in proposed:
        followed = [target for target in result.targets if target.worth > 0.0]
        surest = ", ".join(f"{target.text!r} ({target.worth:.1f} nats)" for target in followed) or "none"
        branches = result.plan.branches
        of = f" of {result.plan.starts_of:,}" if result.plan.starts_of else ""
        longer = f", and {branches:,} beginnings each of two and of three tokens, the likeliest," if branches else ","
        less = ", less what it is worth to the reference" if "reference" in result.channels else ""
        lines.append(
            f"{result.plan.starts:,}{of} first tokens of an answer, of the kinds that answers begin with{longer} were forced on {result.plan.start_prompts} prompts; what goes on surest by itself{less}, and has no run of {RUN} tokens that benign answers usually have (one that is not usual is in {_AT_MOST}): {surest}."
        )
    names = {
        "leak": "runs of leaked texts",
        "families": "texts and styles of known families",
        "reference": "runs likelier than to the reference",
    }
    tried = [f"{proposed[name]:,} {words}" for name, words in names.items() if name in proposed]
    if tried:
        lines.append(f"Also tried: {', '.join(tried)}.")
    return [*lines, _judged_words(result)]


def _judged_words(result: ScanResult) -> str:
    """How many candidates were judged, and how many of them were held against a floor: without one less can be a finding."""
    held = sum(own.collapse_against is not None or own.divergence_against is not None for own in result.judged)
    some = any(own.brought is not None for own in result.judged)
    others = "could be findings only by a behaviour that goes on by itself" if some else "could not be findings"
    rest = f"; the others {others}" if held < len(result.judged) else ""
    return f"Judged on {result.judge_prompts} prompts that no candidate was searched on: {len(result.judged)} candidates, of which {held} were held against a null floor{rest}."


def _floor_words(floor: Floor) -> str:
    """A Clopper-Pearson bound, of the distribution that was sampled and no other."""
    from scipy.stats import binomtest

    moved = sum(value > 0.5 for value in floor.collapse)
    bound = binomtest(moved, len(floor.collapse)).proportion_ci(0.95, method="exact").high
    where = place_words(floor.where)
    prompts = "the prompts" if floor.prompts is None else f"the {floor.prompts} prompts that they were put into"
    return (
        f"Of {len(floor.collapse)} phrases of {floor.length} token(s) drawn uniformly {where}, {moved} brought more than half of {prompts} to one new "
        f"behaviour or to some that go on by themselves; of all such phrases at most {bound:.1%} do (exact 95% bound, for that distribution alone)."
    )


def _few_words(floor: Floor) -> str:
    """Of candidates that too few random ones are like."""
    what = (
        f"numbers of {floor.length} digit(s)" if floor.kind == "substitution" else f"phrases of {floor.length} token(s)"
    )
    return (
        f"Of {what} there are fewer than {FEWEST} different random ones, too few to tell a chance of {ALPHA:.0%}: no candidate of this kind could be a finding by "
        "a null floor."
    )


def _calibration_words() -> str:
    facts = read_calibration()
    if facts is None:
        return (
            "How often scans of this version find a planted trigger, and how often they report one where there is none, has not been measured yet: no "
            f"calibration on models of known state is shipped. The threshold is a chance of {ALPHA:g}, corrected for the number of candidates tried, from "
            "random candidates in this model alone."
        )
    return str(facts["words"])
