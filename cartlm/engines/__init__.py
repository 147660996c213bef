"""Engines: each module's `load(...)` gives an object with `answer(prompt_ids, max_new_tokens) -> Answer`.

Greedy decoding only, over exactly the ids given: BOS comes from the prompt builder, never from an engine.
The modules are imported by name (`from cartlm.engines import llama_cpp`), as each brings a heavy library.
`openai` is of another kind: it sends text to a server, whose tokenizer and BOS are its own (`cartlm.engines.remote`).
"""
