"""What is computed once from prepared samples, and read with them: latents, embeddings, speech, captions."""
