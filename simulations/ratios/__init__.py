"""The benchmarks' ratios in one record, and the check against the last one."""
