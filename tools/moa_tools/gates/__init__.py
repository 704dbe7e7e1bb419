"""Learned gates: which KV heads need which spans, found by letting all heads compete at once."""
