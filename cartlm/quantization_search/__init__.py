"""The smallest mix of tensor types that loses nothing, searched on validation rows: `cartlm search-quantization`."""
