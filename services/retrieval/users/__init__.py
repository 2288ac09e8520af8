"""The users of answers: their documents, read and remembered, those who wait for one, and who was active."""
