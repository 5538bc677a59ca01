"""`odis report`: curves, results and attention of runs in one HTML file that opens offline."""
