"""The contract: rows, prompts and the intent that an answer states."""
