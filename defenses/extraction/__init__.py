"""Against the theft of a model by its answers: what an answer gives away, who may have how much, what more costs."""
