"""From scores to p-values to actions: calibration, false-positive guarantees, policy, hardening."""
