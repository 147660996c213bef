"""cartlm: a shop's intent reader from a small open language model, and what each way of shipping it costs."""

__version__ = "0.1.0"
