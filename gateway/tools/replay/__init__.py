"""What was recorded, done again: `stockade audit replay`."""
