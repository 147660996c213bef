"""Variants behind HTTP: `cartlm serve`. FastAPI on uvicorn; only these modules import them."""
