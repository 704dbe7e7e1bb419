"""Frozen transformers models whose attention heads can be watched and replaced."""
