"""Kinds of probe. To add one: a file here with a class like `mean_difference.MeanDifferenceProbe`, and its line in `METHODS`."""

METHODS = {
    "logistic": "probes.classifiers.logistic:LogisticProbe",
    "mean-difference": "probes.classifiers.mean_difference:MeanDifferenceProbe",
    "lda": "probes.classifiers.lda:LDAProbe",
}
"""Name on the command line, and module and class, which are imported when a probe of the kind is fitted."""
