"""The report's words: what each number means, and what it does not."""

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
