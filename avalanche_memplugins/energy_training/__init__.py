"""Meta-training of energy networks: ``memplugins train-energy``."""
