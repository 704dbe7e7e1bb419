"""Speed and memory beside the peers at hand, each ratio with its base.

One run writes one JSON (`record`); tables (`table`), plots (`plot`) and the verdicts on the goals
(`goals`) are made from it and from nothing else. `README.md` here says how to read them.
"""
