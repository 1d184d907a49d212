"""From keyframes to clips: the only place where tokenizer and transformer meet."""
