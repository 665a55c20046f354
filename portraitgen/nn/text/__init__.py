"""Prompts as embeddings: frozen CLIP and T5 encoders, or what they gave once, in their place."""
