"""Width pruning: score, choose, reconstruct, cut."""
