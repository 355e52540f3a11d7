"""Cut a trigger out: methods of removal on one scoreboard, beside placebos and an oracle."""
