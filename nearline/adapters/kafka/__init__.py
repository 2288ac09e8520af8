"""The log, through kafka-python. Its calls block, so each client here has its own thread.

``admin`` creates and checks topics and reads their offsets, ``producer`` writes, ``table_reader`` reads a compacted
topic as a table (all of it, no group), ``group_reader`` shares topics among replicas and commits processed records.
"""
