"""Measures this tree beside another commit, round by round: ``make bench REF=<commit>``."""
