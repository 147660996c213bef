"""GGUF files of many types from one merged model, and the importance matrix that some are made with."""
