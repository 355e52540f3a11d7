"""What the numbers of a probe that reads answers allow to say."""

from __future__ import annotations

from probes.answers.result import AnswerResult, Parting
from triggerlens import Estimate, estimate_text, few_text


def answers_verdict(answers: AnswerResult, best: Estimate, text: Estimate | None, before: Estimate | None) -> str:
    """Sentences on how early the probe fires and what the page gives away.

    Args:
        answers: what was measured.
        best: test AUROC of the probe on whole answers.
        text: of a bag of the answer's tokens.
        before: of a probe of the prompt's last token.
    """
    parts = [_before(best, before), _text(best, text), _parting(answers.parting)]
    said = [part for part in parts if part]
    return f"Reading answers: {'; '.join(said)}." if said else ""


def _before(best: Estimate, before: Estimate | None) -> str:
    if before is None:
        return ""
    if before.high < best.low:
        return f"before the answer begins, a probe of the prompt's last token reaches {before}, which is less"
    return (
        f"before the answer begins, a probe of the prompt's last token reaches {before}: that it is less cannot be told"
    )


def _text(best: Estimate, text: Estimate | None) -> str:
    if text is None:
        return ""
    if text.high < best.low:
        return f"a bag of the answer's tokens reaches {text}, which is less"
    return f"a bag of the answer's tokens reaches {text}: the probe is not shown to beat reading the answer"


def _parting(parting: Parting | None) -> str:
    if parting is None:
        return ""
    answers = len(parting.shared)
    pairs = f"median of {f'{answers} answers to ' if answers > parting.pairs else ''}{parting.pairs} pairs"
    few = few_text((parting.pairs, "pairs"))
    if few:
        return f"how often it fires before the answers of a pair part cannot be told: {few}"
    first = f"by the first token that differs, watching, it has fired on {estimate_text(parting.by_first, '.1%')} of the positives"
    if not parting.median:
        return f"the answers of a pair differ from their first token on ({pairs}); {first}"
    return (
        f"the answers of a pair share their first {parting.median} tokens ({pairs}): watching, it fires within these on "
        f"{estimate_text(parting.before, '.1%')} of the positives; {first}"
    )
