"""What is measured of a probe that reads answers, beside what is measured of every probe."""
