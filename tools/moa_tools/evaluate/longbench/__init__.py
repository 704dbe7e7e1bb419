"""LongBench, LongBench-E and LV-Eval on their published JSONL files, which are the user's."""
