"""What a model tells of its training rows: was a row among them, and what does a class of them look like."""
