"""The measurements behind ``fanfill bench`` and the files under ``benchmarks/``.

The method is always the same. All contestants use one buffer, whose pages are in memory before a clock
starts. Kernels are compiled, and checked against the NumPy oracle, before they are timed. Contestants run
interleaved, so that a machine that slows down slows all of them. Figures are medians. Runs and machines are
compared by the share of the memory limit: memset by one thread, on the same buffer, in the same turns.
"""
