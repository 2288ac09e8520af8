"""Items as answers see them: the interface of an index, popularity, words, and what is printed of each."""
