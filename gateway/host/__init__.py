"""The processes of one gateway host: supervisor, workers, recorder, admin port, and where they meet."""
