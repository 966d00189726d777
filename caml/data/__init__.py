"""Sources, tokenizer, token store, mixture, chat format."""
