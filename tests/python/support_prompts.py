"""Prompts of many kinds for greedy comparisons."""

from __future__ import annotations

TEXTS = (
    "The capital of France is",
    "Once upon a time there was a king who",
    "def fibonacci(n):\n    ",
    "The three laws of thermodynamics are",
    "Water boils at 100 degrees Celsius because",
    "1, 1, 2, 3, 5, 8, 13,",
    "import numpy as np\n\n",
    "In 1969, two astronauts",
    "Dear Sir or Madam,\n\nI am writing to",
    "The recipe needs flour, sugar and",
    "Q: What is the tallest mountain on Earth?\nA:",
    "Je m'appelle Pierre et",
    "class Stack:\n    def __init__(self):\n",
    "The mitochondria is",
    "SELECT name, COUNT(*) FROM",
    "Roses are red, violets are",
    "If x + 3 = 10, then x is",
    "The quick brown fox jumps over the lazy dog. " * 6,
    "Photosynthesis turns light into",
    "for i in range(10):\n    print(",
)
