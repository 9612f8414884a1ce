"""Who is calling (`chain` over `api_key`, `jwt`, `mtls`), and which methods and models are theirs (`rights`)."""
