"""Two-tower training in torch: data, towers, loss, evaluation, training and export."""
