"""Generators of retrieval questions, one file each, and their table."""

from __future__ import annotations

from moa_tools.evaluate.retrieval.registry import GENERATORS, Generator, make_items

__all__ = ["GENERATORS", "Generator", "make_items"]
