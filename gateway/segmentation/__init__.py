"""Who is kept out, by an operator's word."""
