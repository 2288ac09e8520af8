"""canary: a synthetic user who clicks and asks until the answer has used the click."""
