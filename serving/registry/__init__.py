"""What a model version has proven: evaluations, gates, approvals, and what they come to. See
docs/how-to/promotion.md.
"""
