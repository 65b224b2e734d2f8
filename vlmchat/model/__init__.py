"""SigLIP, Gemma and the projector between them: tensors in, tensors out."""
