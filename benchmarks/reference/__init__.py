"""This tree measured beside another commit, round by round: ``make bench REF=<commit>``."""
