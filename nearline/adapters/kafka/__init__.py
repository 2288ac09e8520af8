"""The log, by kafka-python. Its calls block, so each client here runs in one thread of its own.

``admin`` creates and checks topics and says how far they reach, ``producer`` writes, ``table_reader`` reads a compacted
topic as a table (all of it, no group), ``group_reader`` shares topics among replicas and commits what was dealt with.
"""
