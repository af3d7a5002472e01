"""Sets the channel numbers of a neural network automatically, under a real budget."""
