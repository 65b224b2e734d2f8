"""How the demo model was made: drawn scenes, questions about them, and a few million weights.

Read in this order: `scene` draws, `questions` asks, `tokenizer` writes it in tokens, `batches` lays
it out for the model, `train` learns, `evaluate` measures, `export` writes the checkpoint folder.
"""
