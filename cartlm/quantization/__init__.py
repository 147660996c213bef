"""Quantized variants of the merged model: GGUF files, the importance matrix that some need, and GPTQ checkpoints."""
