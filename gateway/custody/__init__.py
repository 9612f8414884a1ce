"""Kept payloads in the hands of people: who may open one, how a subject's are destroyed, what must be kept."""
