"""Engines: each module's `load(...)` returns an object with `answer(prompt_ids, max_new_tokens) -> Answer`.

Greedy decoding only, over exactly the ids given: BOS comes from the prompt builder, never from an engine.
Modules are imported by name (`from cartlm.engines import llama_cpp`), as each brings a heavy library.
`openai` is another kind of engine: it sends text to a server, which adds BOS with its own tokenizer; `replies` keeps
the answers, `batch_api` asks for them in batches.
"""
