"""S7: labels that callers send later, item by item and batch by batch."""
