"""The base model, QLoRA fine-tuning (arXiv 2305.14314) and merging."""
