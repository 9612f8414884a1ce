"""The payments case: interpretable credit risk."""
