"""What runs a model: in this process, as a mixture of experts, or on a Ray cluster."""
