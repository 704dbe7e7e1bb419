"""Choosing a rule for every KV head: an integer program under budgets of KV bytes."""

from moa_tools.search.budgets import Budgets, CostTable
from moa_tools.search.planner import SearchOptions, SearchResult, search

__all__ = ["Budgets", "CostTable", "SearchOptions", "SearchResult", "search"]
