"""How good is the pruning? Every score with and without reconstruction, a peer, a language model, and the cost."""
