"""Labels that clients send later: who may say what of which answer, and what becomes of it (S7)."""
