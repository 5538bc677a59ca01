"""`odis benchmark`: what a recipe costs on your data and machine, before weeks are spent on it."""
