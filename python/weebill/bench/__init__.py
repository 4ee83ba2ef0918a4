"""The benchmark behind `weebill bench`: this library against other CPU inference engines.

A *suite* (`suites`) is a file of block shapes; a network is such a file read from top to bottom. A
*case* (`case`) is one network, block or operator with seeded weights, one input, and the answer in
float64 (`reference`). An *engine* (`engines`) turns a case into a file and a file into a session
whose ``run()`` is the timed call; every engine has a process of its own (`worker`). `timing`
interleaves their turns, `stats` condenses them, `run` puts it together, and `results`, `tables`,
`compare` and `page` store and show it.

Nothing here imports an engine, or torch, before an engine that needs it is used: on a board
without torch the suites run through weebill's own runtime.
"""
