"""Two-tower training in torch: read data, towers, loss, evaluate, then train downwards, then export."""
