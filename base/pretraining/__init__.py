"""The embedded base model, made from nothing: answer formats, text, tokenizer, training."""
