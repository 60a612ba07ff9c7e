"""What commands and the Python API do: label, train, evaluate, a whole run."""
