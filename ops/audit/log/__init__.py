"""The log's formats. Pure: entries, Merkle trees, checkpoints, tiles, proofs, trust policies."""
