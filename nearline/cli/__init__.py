"""The command line ``nearline``; if a part is down, every command says what to do next."""
