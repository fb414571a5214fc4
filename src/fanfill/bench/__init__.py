"""What ``fanfill bench`` and the files under ``benchmarks/`` measure with.

The method, everywhere here: one buffer for all, its pages in memory before a clock starts; kernels compiled,
and checked against the NumPy oracle, before they are timed; contestants take turns, so that a machine which
slows down slows all of them; figures are medians, and what is compared between runs and machines is the share
of the memory limit: memset by one thread, on the same buffer, in the same turns.
"""
