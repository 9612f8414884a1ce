"""The clickstream case: predict the next item of a session."""
