"""The report's page and its words: what each number means, and what it does not."""

WORDS: dict[str, tuple[str, str]] = {
    "layers": (
        "AUROC by layer",
        "The chance that a positive test prompt scores above a negative one, with the 95% interval from resampling whole "
        "pairs. The star is the layer chosen on validation prompts, so it need not be the highest here. An interval of "
        "[1, 1] says only that no resample held an error, not that none will ever come.",
    ),
    "controls": (
        "Controls",
        "An AUROC means little alone. Each control shows how much of it can be had without what the probe claims.",
    ),
    "scores": (
        "Scores of the test prompts",
        "Bars are shares within each kind of prompt. The threshold was frozen on other prompts (the calibration split), before "
        "any of these was scored.",
    ),
    "datasets": (
        "False positives by dataset",
        "Negatives that fire at the frozen threshold, the worst dataset first, with Wilson intervals. A threshold holds for "
        "prompts like those it was calibrated on; another kind of prompt can fire far more often.",
    ),
    "roc": (
        "ROC",
        "A monitor runs on millions of harmless prompts, so the left edge is what counts: the right panel stretches it. "
        "Rates below one over the number of negatives cannot be resolved.",
    ),
    "pca": (
        "Activations of the chosen layer",
        "Test prompts along the two directions of largest variance, found without labels. Clusters here mean that a "
        "difference is large, not that it is the one the probe reads; no clusters do not mean that nothing can be read.",
    ),
    "examples": (
        "Tokens that carry the score",
        "Each token's score in its context: white at the frozen threshold, orange above it, blue below it. A token's "
        "activations hold what came before it, so a coloured token need not be the cause. The probe was not fitted to "
        "every position; where it was fitted to the last token, only the last token's score is the prompt's.",
    ),
    "control:shuffled_labels": ("", "the same fit on permuted labels (mean): what fitting alone makes up"),
    "control:random_directions": ("", "the best unit direction of many, chosen on the test prompts: luck with search"),
    "control:bag_of_tokens": ("", "a classifier on token counts: what the text gives away without the model"),
    "control:triggered_but_harmless": (
        "",
        "triggered prompts that do not defect, against untriggered ones: near 0.5 the probe reads behaviour, near 1 the "
        "trigger's tokens",
    ),
    "control:clean_twin": ("", "the same probe on a model trained with the trigger but without the behaviour"),
}

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ margin: 0; background: #f5f6f8; color: #1d2433; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
main {{ max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }}
h1 {{ font-size: 1.9rem; margin: 0 0 .3em; }}
h2 {{ font-size: 1.2rem; margin: 0; }}
h3 {{ font-size: .85rem; margin: 0; color: #475467; font-weight: 600; }}
.verdict {{ font-size: 1.1rem; border-left: 5px solid #D55E00; background: #fff; padding: 14px 18px; border-radius: 4px; }}
.note {{ color: #5b6577; font-size: .88rem; margin: .3em 0 .8em; max-width: 78ch; }}
dl {{ display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 0 0 1em; font-size: .9rem; }}
dl div {{ display: flex; gap: 6px; }} dt {{ color: #5b6577; }} dd {{ margin: 0; font-weight: 600; overflow-wrap: anywhere; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(185px, 1fr)); gap: 12px; }}
.card, section {{ background: #fff; border: 1px solid #e4e7ec; border-radius: 8px; padding: 14px 16px; }}
.card .note {{ margin: 0; }}
.value {{ font-size: 1.7rem; font-weight: 650; margin: .1em 0; }}
.value small {{ display: block; font-size: .85rem; font-weight: 400; color: #475467; }}
section {{ margin-top: 18px; padding: 18px 20px; overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .92rem; }}
th, td {{ text-align: left; padding: 6px 10px; border-bottom: 1px solid #e4e7ec; vertical-align: top; overflow-wrap: anywhere; }}
th {{ color: #475467; font-weight: 600; white-space: nowrap; }}
td:nth-child(2), td:nth-child(3) {{ font-variant-numeric: tabular-nums; }}
#datasets td:not(:first-child) {{ white-space: nowrap; }}
td:nth-child(3) {{ min-width: 8.5em; }} td:nth-child(2), th:nth-child(2) {{ min-width: 3.6em; }}
.example {{ margin: 0 0 16px; }}
figcaption {{ font-size: .85rem; color: #475467; margin-bottom: 4px; }}
.tokens {{ font: 14px/1.8 ui-monospace, "SF Mono", Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  border: 1px solid #e4e7ec; border-radius: 6px; padding: 10px 12px; background: #fff; }}
.tokens span {{ border-radius: 3px; box-shadow: inset 0 0 0 .5px rgba(29, 36, 51, .12); }}
</style>
<script>{plotly}</script>
</head>
<body>
<main>
<h1>{heading}</h1>
<dl>{facts}</dl>
<p class="verdict">{verdict}</p>
<div class="cards">{cards}</div>
{sections}
</main>
</body>
</html>
"""
