"""The life of a request: pipeline, record, batch, judgement, completion."""
