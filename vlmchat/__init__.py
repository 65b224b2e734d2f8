"""A terminal chat with vision-language models."""
