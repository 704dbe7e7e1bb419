"""Plans made better by their true loss: single heads tried, moves by an integer program."""
