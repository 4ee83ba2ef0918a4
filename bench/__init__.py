"""Comparison of weebill with other CPU inference engines.

Run from the project's root: ``python -m bench.models`` for whole networks and
``python -m bench.blocks`` for their building blocks.  Nothing here is shipped; the engines
compared are installed from ``bench/requirements*.txt`` and skipped when absent.

A *case* (`bench.case`) is one module with one input and its float64 answer.  An *engine*
(`bench.engines`) turns a case into a file and a file into a session whose ``run()`` is the
timed call.  `bench.timing` interleaves the sessions' calls, `bench.stats` condenses them and
`bench.report` prints and stores them.
"""
