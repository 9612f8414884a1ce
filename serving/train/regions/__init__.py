"""The mixture of experts that sparsity is measured on."""
