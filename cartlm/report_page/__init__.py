"""`cartlm report`: all numbers as one page that opens from disk and fetches nothing, and a short form for pull requests."""
