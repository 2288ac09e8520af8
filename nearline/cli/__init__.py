"""The command line ``nearline``: every command says what to do next when something is down."""
