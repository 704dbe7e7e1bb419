"""Calibration sets: long inputs and the dense model's own answers."""
