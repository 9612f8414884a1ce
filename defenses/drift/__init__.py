"""S8: drift detectors."""
