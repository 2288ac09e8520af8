"""canary: a synthetic user that clicks and requests answers until one has used the click."""
