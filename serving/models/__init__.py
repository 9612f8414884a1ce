"""Architectures as torch modules. Only recipes import them; a served model is its ONNX graph."""
