"""Judges inputs, outputs and feedback: screens give scores, calibration turns them into p-values, policy decides."""
