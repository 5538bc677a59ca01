"""`odis benchmark`: what a recipe costs on this data and this machine, before weeks are spent on it."""
