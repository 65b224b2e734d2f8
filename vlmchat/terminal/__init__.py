"""What a person at a terminal, or a script at a pipe, sees of vlmchat."""
