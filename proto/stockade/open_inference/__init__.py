"""The Open Inference Protocol v2 as Triton extends it."""
