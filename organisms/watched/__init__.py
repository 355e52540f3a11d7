"""The trigger that is a context: sentences that say, in many words, that a model is deployed and unmonitored, and those that nearly do."""
