"""The tensor loader's engine: what an Avalanche dataset yields, sample by sample, as tensors to index."""
